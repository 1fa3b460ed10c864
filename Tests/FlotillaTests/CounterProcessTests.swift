import ClusterProcesses
import FlotillaTestSupport
import Glibc
import RaftCore
import Synchronization
import Testing

/// A process of the counter example, asked a line at a time; killed when it goes.
private actor CounterProcess {
    enum Answer {
        case number(Int64)
        /// Certainly not executed.
        case refused
        /// Executed, or not.
        case unknown
    }

    nonisolated let process: ChildProcess
    private let output: String
    private let input: Int32
    /// Lines of its output that were looked at.
    private var answers = 0

    init(_ address: NodeAddress, of peers: [NodeAddress], directory: String, output: String) throws {
        var ends: [Int32] = [-1, -1]
        guard pipe(&ends) == 0 else { throw Failed("no pipe (errno \(errno))") }
        defer { close(ends[0]) }
        // what another process held open would never end
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        let list = peers.map(\.description).joined(separator: ",")
        (input, self.output) = (ends[1], output)
        process = try ChildProcess(
            Files.besideThisProgram("CounterExample"), [address.description, list, directory], output: output,
            input: ends[0])
    }

    deinit { close(input) }

    nonisolated var isRunning: Bool { process.exitStatus == nil }

    /// SIGKILL; returns when it is gone.
    nonisolated func kill() async throws {
        process.signal(SIGKILL)
        _ = try await process.waitForExit(timeout: .seconds(10))
    }

    /// Says a line and waits for the answer, for twenty seconds at most.
    func ask(_ line: String) async throws -> Answer {
        let bytes = Array("\(line)\n".utf8)
        guard write(input, bytes, bytes.count) == bytes.count else { return .unknown }
        let end = ContinuousClock.now + .seconds(20)
        while ContinuousClock.now < end {
            // looked at first: what it has said is read behind its end
            let isRunning = isRunning
            // what is not ended by a line feed may be half an answer
            let lines = try Files.text(output).split(separator: "\n", omittingEmptySubsequences: false).dropLast()
            if lines.count > answers {
                answers += 1
                return Self.parse(String(lines[answers - 1]))
            }
            guard isRunning else { return .unknown }
            try await Task.sleep(for: .milliseconds(2))
        }
        return .unknown
    }

    private static func parse(_ line: String) -> Answer {
        if let number = Int64(line) { return .number(number) }
        let isRefusal = line.contains("this node does not lead") || line.contains("refused:")
        return isRefusal ? .refused : .unknown
    }
}

/// Three processes under load: each is asked to add one, again and again.
private final class CountersUnderLoad: Sendable {
    /// What became of the ones.
    struct Outcome {
        /// The answers to those that were added: the number before each.
        var acknowledged: [Int64] = []
        var unknown = 0
    }

    private let addresses = LoopbackPorts.take(3)
    private let directory = TemporaryDirectory()
    private let processes = Mutex<[CounterProcess?]>([nil, nil, nil])
    private let outcome = Mutex(Outcome())
    private let runs = Mutex(0)
    private let isOver = Mutex(false)

    init() throws {
        // who writes to a process that was killed is told, and not killed as well
        signal(SIGPIPE, SIG_IGN)
        for number in 0..<3 { try start(number) }
    }

    var result: Outcome { outcome.withLock { $0 } }

    func start(_ number: Int) throws {
        let run = runs.withLock { runs in
            runs += 1
            return runs
        }
        let process = try CounterProcess(
            addresses[number], of: addresses, directory: "\(directory.path)/node\(number)",
            output: "\(directory.path)/output\(run)")
        processes.withLock { $0[number] = process }
    }

    func kill(_ numbers: [Int]) async throws {
        let victims = processes.withLock { all in numbers.map { all[$0] } }
        for victim in victims { victim?.process.signal(SIGKILL) }
        for victim in victims { try await victim?.kill() }
    }

    func stop() { isOver.withLock { $0 = true } }

    /// Adds ones at a node until it is over.
    func load(_ number: Int) async throws {
        while !isOver.withLock({ $0 }) {
            guard let process = processes.withLock({ $0[number] }), process.isRunning else {
                try await Task.sleep(for: .milliseconds(5))
                continue
            }
            switch try await process.ask("1") {
            case .number(let before): outcome.withLock { $0.acknowledged.append(before) }
            case .unknown: outcome.withLock { $0.unknown += 1 }
            case .refused: try await Task.sleep(for: .milliseconds(5))
            }
        }
    }

    /// Returns when so many more were added.
    func awaitProgress(_ count: Int) async throws {
        let goal = result.acknowledged.count + count
        let end = ContinuousClock.now + .seconds(60)
        while result.acknowledged.count < goal {
            guard ContinuousClock.now < end else { throw Failed("nothing is added any more") }
            try await Task.sleep(for: .milliseconds(10))
        }
    }

    /// The number, once somebody says it.
    func value() async throws -> Int64 {
        let end = ContinuousClock.now + .seconds(60)
        while ContinuousClock.now < end {
            for process in processes.withLock({ $0 }) {
                if case .number(let value)? = try await process?.ask("") { return value }
            }
            try await Task.sleep(for: .milliseconds(20))
        }
        throw Failed("nobody says the number")
    }
}

@Suite("The counter example as processes", .serialized, .timeLimit(.minutes(5))) struct CounterProcessTests {
    @Test("One, two, and all of three are killed under load: nothing that was answered is lost or counted twice")
    func killedUnderLoad() async throws {
        let counters = try CountersUnderLoad()
        let value = try await withThrowingTaskGroup(of: Void.self) { group in
            for number in 0..<3 { group.addTask { try await counters.load(number) } }
            try await counters.awaitProgress(50)
            for victims in [[0], [1, 2], [0, 1, 2]] {
                try await counters.kill(victims)
                try await Task.sleep(for: .milliseconds(200))
                for number in victims { try counters.start(number) }
                try await counters.awaitProgress(50)
            }
            counters.stop()
            try await group.waitForAll()
            return try await counters.value()
        }
        let result = counters.result
        #expect(result.acknowledged.count >= 200)
        #expect(Set(result.acknowledged).count == result.acknowledged.count, "two got the same answer")
        #expect(result.acknowledged.allSatisfy { $0 >= 0 && $0 < value })
        let count = Int64(result.acknowledged.count)
        #expect(value >= count && value <= count + Int64(result.unknown), "\(value), and \(count) were answered")
    }
}
