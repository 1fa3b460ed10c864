import Glibc
public import RaftCore
import Synchronization

/// Something that listens at an address as a braft does, and answers as a test tells it: `braft.RaftService` and other
/// services of braft by a closure, everything else, our hello included, with 1002, so that nodes take it for a braft.
///
/// Every request is kept, in the order of arrival. Any thread; the closure is called on a thread of the connection, one
/// request of it after the other. It must be closed.
public final class ScriptedBraft: Sendable {
    /// A request that came.
    public struct Call: Sendable {
        /// Its method.
        public let method: String
        /// Its service's full name.
        public let service: String
        /// The whole frame.
        public let frame: BraftFrame
        /// Which connection it came on, counted from zero.
        public let connection: Int
        /// When.
        public let time: ContinuousClock.Instant
        /// Its message; without fields if that does not parse.
        public var message: WireFields { WireFields(frame.body) ?? WireFields() }
    }

    /// What is said to a request.
    public enum Answer: Sendable {
        /// Success.
        case message(WireFields, attachment: [UInt8] = [])
        /// An error's number and text.
        case failure(Int64, String)
        /// Nothing, until the test says something with ``answer(_:with:)``.
        case later
        /// The connection ends.
        case hangUp
    }

    private struct State {
        var calls: [Call] = []
        var connections: [Int32] = []
        var script: @Sendable (Call) -> Answer
        var isClosed = false
    }

    /// Where it listens.
    public let address: NodeAddress
    private let state: Mutex<State>
    private let listener: Int32
    private let threads = Mutex<[pthread_t]>([])

    /// Listens at `address`, a free one. Unless told otherwise it grants nobody a vote and takes every append.
    public init(at address: NodeAddress, _ script: @escaping @Sendable (Call) -> Answer = ScriptedBraft.obedient) {
        self.address = address
        state = Mutex(State(script: script))
        listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        var yes: Int32 = 1
        setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, socklen_t(MemoryLayout<Int32>.size))
        var name = socketName(of: address)
        let isBound = withUnsafePointer(to: &name) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(listener, $0, socklen_t(MemoryLayout<sockaddr_in>.size)) == 0
            }
        }
        precondition(isBound && listen(listener, 64) == 0, "\(address) is taken (errno \(errno))")
        start { [self] in accept() }
    }

    /// Takes every append and snapshot, grants no votes, does not campaign.
    public static let obedient: @Sendable (Call) -> Answer = { call in
        let term = call.message.integer(4) ?? 0
        switch call.method {
        case "append_entries": return appended(call)
        case "pre_vote": return vote(term: term - 1, granted: false)
        case "request_vote": return vote(term: term, granted: false)
        case "install_snapshot": return .message(WireFields().number(1, term).flag(2, true))
        case "timeout_now": return .message(WireFields().number(1, term).flag(2, false))
        default: return .failure(1002, "no method \(call.method)")
        }
    }

    /// A RequestVoteResponse as braft fills it.
    public static func vote(
        term: Int64, granted: Bool, disrupted: Bool = false, previousTerm: Int64? = nil, byLease: Bool = false
    ) -> Answer {
        .message(
            WireFields().number(1, term).flag(2, granted).flag(3, disrupted).number(4, previousTerm ?? term)
                .flag(5, byLease))
    }

    /// The success that an AppendEntriesRequest gets: of an empty one with the last index, here of what it names.
    public static func appended(_ call: Call) -> Answer {
        let request = call.message
        let reply = WireFields().number(1, request.integer(4) ?? 0).flag(2, true)
        guard request.messages(7).isEmpty else { return .message(reply) }
        return .message(reply.number(3, request.integer(6) ?? 0).flag(4, false))
    }

    /// The refusal that an AppendEntriesRequest gets whose predecessor is not there.
    public static func mismatch(term: Int64, lastIndex: Int64?) -> Answer {
        let reply = WireFields().number(1, term).flag(2, false)
        return .message(lastIndex.map { reply.number(3, $0) } ?? reply)
    }

    // MARK: the test's side

    /// Answers otherwise from now on.
    public func follow(_ script: @escaping @Sendable (Call) -> Answer) { state.withLock { $0.script = script } }

    /// Every request of braft's services so far.
    public var calls: [Call] { state.withLock { $0.calls } }

    /// Those of one method.
    public func calls(_ method: String) -> [Call] { calls.filter { $0.method == method } }

    /// Waits until `condition` holds of what has come; nil if that takes too long, otherwise what came.
    public func wait(
        seconds: Int = 20, until condition: ([Call]) -> Bool
    ) async -> [Call]? {
        let end = ContinuousClock.now + .seconds(seconds)
        while ContinuousClock.now < end {
            let calls = self.calls
            if condition(calls) { return calls }
            try? await Task.sleep(for: .milliseconds(5))
        }
        return nil
    }

    /// Says something to a request that was left ``Answer/later``.
    public func answer(_ call: Call, with answer: Answer) {
        let descriptor = state.withLock { $0.isClosed ? -1 : $0.connections[call.connection] }
        guard descriptor >= 0 else { return }
        say(answer, to: call.frame.correlationID, on: descriptor)
    }

    /// Ends all connections; it can be connected to again.
    public func hangUp() {
        state.withLock { state in
            for descriptor in state.connections where descriptor >= 0 { shutdown(descriptor, Int32(SHUT_RDWR)) }
        }
    }

    /// Ends it; returns when its threads have ended. Nothing listens at its address any more.
    public func close() {
        let wasClosed = state.withLock { state in
            defer { state.isClosed = true }
            return state.isClosed
        }
        guard !wasClosed else { return }
        shutdown(listener, Int32(SHUT_RDWR))
        hangUp()
        while let thread = threads.withLock({ $0.popLast() }) { pthread_join(thread, nil) }
        Glibc.close(listener)
    }

    // MARK: its threads

    private func accept() {
        while true {
            let descriptor = Glibc.accept(listener, nil, nil)
            if descriptor < 0, errno == EINTR || errno == ECONNABORTED { continue }
            guard descriptor >= 0 else { return }
            let number: Int? = state.withLock { state in
                guard !state.isClosed else { return nil }
                state.connections.append(descriptor)
                return state.connections.count - 1
            }
            guard let number else {
                Glibc.close(descriptor)
                return
            }
            start { [self] in serve(descriptor, number) }
        }
    }

    private func serve(_ descriptor: Int32, _ number: Int) {
        var received: [UInt8] = []
        while let more = receiveSome(from: descriptor) {
            received += more
            while let size = BraftFrame.size(in: received), received.count >= size {
                let frame = BraftFrame(received)
                received.removeFirst(size)
                if let frame { hear(frame, descriptor, number) }
            }
        }
        state.withLock { $0.connections[number] = -1 }
        Glibc.close(descriptor)
    }

    private func hear(_ frame: BraftFrame, _ descriptor: Int32, _ number: Int) {
        guard let service = frame.service, let method = frame.method, service.hasPrefix("braft.") else {
            return say(.failure(1002, "no method \(frame.method ?? "")"), to: frame.correlationID, on: descriptor)
        }
        let call = Call(method: method, service: service, frame: frame, connection: number, time: .now)
        let script = state.withLock { state in
            state.calls.append(call)
            return state.script
        }
        say(script(call), to: frame.correlationID, on: descriptor)
    }

    private func say(_ answer: Answer, to id: Int64, on descriptor: Int32) {
        let frame: BraftFrame
        switch answer {
        case .later: return
        case .hangUp:
            shutdown(descriptor, Int32(SHUT_RDWR))
            return
        case .message(let message, let attachment):
            let meta = WireFields().message(2, WireFields().number(1, 0)).number(3, 0).number(4, id)
            frame = BraftFrame(
                meta: attachment.isEmpty ? meta : meta.number(5, Int64(attachment.count)), body: message.encoded,
                attachment: attachment)
        case .failure(let code, let text):
            let error = WireFields().number(1, code).text(2, "[\(address)][E\(code)]\(text)")
            frame = BraftFrame(meta: WireFields().message(2, error).number(3, 0).number(4, id))
        }
        sendAll(frame.encoded, to: descriptor)
    }

    private func start(_ body: @escaping @Sendable () -> Void) {
        var thread = pthread_t()
        let boxed = Unmanaged.passRetained(ScriptBody(body))
        let result = pthread_create(
            &thread, nil,
            { context in
                guard let context else { return nil }
                Unmanaged<ScriptBody>.fromOpaque(context).takeRetainedValue().run()
                return nil
            }, boxed.toOpaque())
        precondition(result == 0, "no thread for a scripted braft (errno \(result))")
        threads.withLock { $0.append(thread) }
    }
}

private final class ScriptBody: Sendable {
    let run: @Sendable () -> Void
    init(_ run: @escaping @Sendable () -> Void) { self.run = run }
}
