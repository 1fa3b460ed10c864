import Flotilla
import FlotillaTestSupport
import RaftCore
import RaftHost
import Synchronization
import Testing

/// One real node with a replica of a group whose other members are scripted brafts: real sockets, real disk.
final class BraftStage: Sendable {
    /// What the replica has applied.
    final class Applied: Sendable {
        private let payloads = Mutex<[String]>([])
        var all: [String] { payloads.withLock { $0 } }
        fileprivate func append(_ payload: String) { payloads.withLock { $0.append(payload) } }
        fileprivate func set(_ texts: [String]) { payloads.withLock { $0 = texts } }
    }

    private final class Machine: VolatileStateMachine {
        private let applied: Applied
        init(_ applied: Applied) { self.applied = applied }

        func apply(_ entries: [CommittedEntry]) throws(StateMachineError) -> [Bytes] {
            for entry in entries where entry.kind == .data { applied.append(entry.payload.text) }
            return entries.map { _ in Bytes() }
        }

        func read(_ query: Bytes) throws(StateMachineError) -> Bytes { Bytes() }
        func frozen() -> any StatePieces { EncodedPieces(applied.all) { Bytes($0) } }

        func restore(from pieces: inout any StatePieces) throws(StateMachineError) {
            var texts: [String] = []
            while let piece = try pieces.next() { texts.append(piece.text) }
            applied.set(texts)
        }
    }

    static let group = "g"
    /// The node's own first, then those of the scripted members, then one of nobody in the group.
    let addresses = LoopbackPorts.take(4)
    let directory = TemporaryDirectory()
    let applied = Applied()
    let a: ScriptedBraft
    let b: ScriptedBraft
    private let running: Mutex<EmbeddedNode?>
    var node: EmbeddedNode {
        guard let node = running.withLock({ $0 }) else { preconditionFailure("the node is being started again") }
        return node
    }

    /// Starts the node and its fellow members, who do as `script` says.
    init(
        script: @escaping @Sendable (ScriptedBraft.Call) -> ScriptedBraft.Answer = ScriptedBraft.obedient,
        _ change: (inout RaftHost.Settings) -> Void = { _ in }
    ) throws {
        a = ScriptedBraft(at: addresses[1], script)
        b = ScriptedBraft(at: addresses[2], script)
        do {
            running = Mutex(try BraftStage.start(addresses, directory, applied, change))
        } catch {
            a.close()
            b.close()
            throw error
        }
    }

    private static func start(
        _ addresses: [NodeAddress], _ directory: TemporaryDirectory, _ applied: Applied,
        _ change: (inout RaftHost.Settings) -> Void
    ) throws -> EmbeddedNode {
        var settings = RaftHost.Settings()
        settings.raft.electionTimeout = .milliseconds(300)
        settings.raft.electionJitter = .milliseconds(100)
        settings.raft.maxClockDrift = .milliseconds(100)
        settings.liveness.promise = .milliseconds(300)
        settings.liveness.interval = .milliseconds(50)
        change(&settings)
        return try EmbeddedNode(
            address: addresses[0], peers: Array(addresses.prefix(3)), dataDirectory: directory.path,
            cluster: "conformance", groups: [group: .volatile { Machine(applied) }], settings: settings)
    }

    /// Ends the node without a farewell and starts it again on its directory.
    func restart(_ change: (inout RaftHost.Settings) -> Void = { _ in }) async throws {
        // the directory is free when the last reference to the old node has gone
        running.withLock { node in
            node?.kill()
            node = nil
        }
        let end = ContinuousClock.now + .seconds(10)
        while true {
            do {
                let next = try BraftStage.start(addresses, directory, applied, change)
                return running.withLock { $0 = next }
            } catch {
                guard ContinuousClock.now < end else { throw error }
                try await Task.sleep(for: .milliseconds(20))
            }
        }
    }

    /// Grants every vote and takes every append.
    static let loyal: @Sendable (ScriptedBraft.Call) -> ScriptedBraft.Answer = { call in
        let term = call.message.integer(4) ?? 0
        switch call.method {
        case "pre_vote": return ScriptedBraft.vote(term: term - 1, granted: true)
        case "request_vote": return ScriptedBraft.vote(term: term, granted: true, previousTerm: term - 1)
        default: return ScriptedBraft.obedient(call)
        }
    }

    /// A stage for one test, closed behind it.
    static func run(
        script: @escaping @Sendable (ScriptedBraft.Call) -> ScriptedBraft.Answer = ScriptedBraft.obedient,
        change: (inout RaftHost.Settings) -> Void = { _ in }, _ body: (BraftStage) async throws -> Void
    ) async throws {
        let stage = try BraftStage(script: script, change)
        defer {
            stage.node.kill()
            stage.a.close()
            stage.b.close()
        }
        try await stage.until("there is a replica") { _ in true }
        try await body(stage)
    }

    func peer(_ number: Int) -> String { PeerID(address: addresses[number]).description }

    // MARK: looking at the node

    func state() async throws -> ReplicaStatus { try #require(await node.state(of: BraftStage.group)) }

    func until(
        _ what: String, seconds: Int = 20, _ place: SourceLocation = #_sourceLocation,
        _ condition: (ReplicaStatus) async throws -> Bool
    ) async throws {
        let end = ContinuousClock.now + .seconds(seconds)
        while ContinuousClock.now < end {
            if let status = await node.state(of: BraftStage.group), try await condition(status) { return }
            try await Task.sleep(for: .milliseconds(5))
        }
        let status = await node.state(of: BraftStage.group)
        Issue.record("not in time: \(what); \(status.map { "\($0)" } ?? "no replica")", sourceLocation: place)
        throw GoldenError(line: what)
    }

    // MARK: speaking to the node

    func connect(timeoutMilliseconds: Int = 10_000) throws -> RawCaller {
        try RawCaller(to: addresses[0], timeoutMilliseconds: timeoutMilliseconds)
    }

    /// Calls braft.RaftService until the node knows who asks.
    func ask(
        _ method: String, _ body: WireFields, attachment: [UInt8] = [], on caller: RawCaller? = nil
    ) async throws -> BraftFrame {
        let caller = try caller ?? connect()
        let end = ContinuousClock.now + .seconds(10)
        while true {
            let answer = try caller.call(method, body, attachment: attachment)
            // it may be about to find out that a braft answers at the sender's address
            guard [11, 16].contains(answer.errorCode), ContinuousClock.now < end else { return answer }
            try await Task.sleep(for: .milliseconds(20))
        }
    }

    func addressing(from: String? = nil, to: String? = nil, group: String = BraftStage.group) -> WireFields {
        WireFields().text(1, group).text(2, from ?? peer(1)).text(3, to ?? peer(0))
    }

    func vote(term: Int64, last: (term: Int64, index: Int64) = (0, 0), from: Int = 1) -> WireFields {
        addressing(from: peer(from)).number(4, term).number(5, last.term).number(6, last.index)
    }

    func append(
        term: Int64, previous: (term: Int64, index: Int64) = (0, 0), entries: [Entry] = [], commit: Int64 = 0,
        from: Int = 1
    ) -> WireFields {
        var message = addressing(from: peer(from)).number(4, term).number(5, previous.term).number(6, previous.index)
        for entry in entries { message = message.message(7, entry.meta) }
        return message.number(8, commit)
    }

    /// An entry of a request.
    struct Entry {
        var meta: WireFields
        var payload: [UInt8] = []

        static func data(_ term: Int64, _ text: String) -> Entry {
            Entry(
                meta: WireFields().number(1, term).number(2, 2).number(4, Int64(text.utf8.count)),
                payload: Array(text.utf8))
        }

        static func configuration(_ term: Int64, _ peers: [String], old: [String] = []) -> Entry {
            var meta = WireFields().number(1, term).number(2, 3)
            for peer in peers { meta = meta.text(3, peer) }
            meta = meta.number(4, 0)
            for peer in old { meta = meta.text(5, peer) }
            return Entry(meta: meta)
        }
    }

    /// Sends entries as a leader does; the answer's message.
    func send(
        _ entries: [Entry] = [], term: Int64, after previous: (term: Int64, index: Int64) = (0, 0), commit: Int64 = 0,
        from: Int = 1, on caller: RawCaller? = nil, _ place: SourceLocation = #_sourceLocation
    ) async throws -> WireFields {
        let answer = try await ask(
            "append_entries",
            append(term: term, previous: previous, entries: entries, commit: commit, from: from),
            attachment: entries.flatMap(\.payload), on: caller)
        #expect(answer.errorCode == 0, "\(answer.errorText)", sourceLocation: place)
        return try #require(WireFields(answer.body))
    }
}
