import Glibc
public import RaftCore
public import RaftHost
import RaftStorage
import Transport

/// Why an embedded node refused or could not finish.
public enum EmbeddedError: Error, Sendable, CustomStringConvertible {
    /// The node could not be started.
    case start(String)
    /// Another node leads; if known, which.
    case notLeader(NodeAddress?)
    /// Not accepted, for this reason; it was not executed.
    case refused(ProposalRefusal)
    /// Leadership was lost before the command was applied: it may still be, or not.
    case outcomeUnknown
    /// The state machine failed.
    case stateMachine(String)

    /// One sentence.
    public var description: String {
        switch self {
        case .start(let reason): reason
        case .notLeader(let leader): "this node does not lead; " + (leader.map { "ask \($0)" } ?? "nobody is known to")
        case .refused(let reason): "refused: \(reason)"
        case .outcomeUnknown: "leadership was lost before the command was applied; it may or may not be executed"
        case .stateMachine(let reason): reason
        }
    }
}

/// Hosts state machines of your own in a fixed set of nodes: the four ideas of MIT's lab interface.
///
/// - *make*: ``init(address:peers:dataDirectory:cluster:groups:logger:settings:)`` joins the nodes `peers`, every group
///   on each of them;
/// - *start*: ``start(_:on:)`` proposes a command and returns the state machine's reply once it is applied here;
/// - *state*: ``state(of:)`` says term, leader and how far the replica is;
/// - *apply*: your `StateMachine` gets the committed commands of its group, in order, each once.
///
/// Any thread; the state machines are called on a worker of the node, one at a time.
public final class EmbeddedNode: @unchecked Sendable {
    /// Holds the directory's lock for as long as the node lives.
    private let data: DataDirectory
    private let host: RaftHost
    private let loop: EventLoop
    private let workers: [ThreadWorker]
    private var thread = pthread_t()
    private let groups: [String: EmbeddedStateMachine]
    /// Where the volatile ones are kept.
    private let states: SavedStates
    /// Those in force; lane-confined.
    private var machines: [String: any StateMachine] = [:]

    /// Starts a node.
    ///
    /// - Parameters:
    ///   - address: where it listens; one of `peers`.
    ///   - peers: all nodes; the same list on each, and the same at every start.
    ///   - dataDirectory: its identity and its log; created if missing.
    ///   - cluster: a name that keeps clusters apart which meet by mistake.
    ///   - groups: what is replicated, by group.
    ///   - logger: gets what an operator would want to read.
    ///   - settings: limits and paces; of volatile state machines how often they are saved.
    public convenience init(
        address: NodeAddress, peers: [NodeAddress], dataDirectory: String, cluster: String,
        groups: [String: EmbeddedStateMachine], logger: Logger = .silent,
        settings: RaftHost.Settings = RaftHost.Settings()
    ) throws(EmbeddedError) {
        let loop: EventLoop
        do throws(TransportError) { loop = try EventLoop() } catch { throw .start(error.description) }
        try self.init(
            loop: loop, address: address, peers: peers, dataDirectory: dataDirectory, cluster: cluster, groups: groups,
            logger: logger, settings: settings)
        runInThread()
    }

    private init(
        loop: EventLoop, address: NodeAddress, peers: [NodeAddress], dataDirectory: String, cluster: String,
        groups: [String: EmbeddedStateMachine], logger: Logger, settings: RaftHost.Settings
    ) throws(EmbeddedError) {
        self.loop = loop
        self.groups = groups
        let members = Array(Set(peers)).sorted()
        guard let position = members.firstIndex(of: address) else { throw .start("\(address) is not one of the peers") }
        let clusterID = EmbeddedNode.clusterID(of: cluster)
        var generator = SystemRandomNumberGenerator()
        let network = loop.makeNetwork()
        do throws(DirectoryError) {
            data = try DataDirectory(
                path: dataDirectory, address: address, freshIncarnation: generator.next() | 1,
                promise: settings.liveness.promise, log: WriteAheadLog.Settings(), logger: logger)
            let recorded = data.node.identity.clusterID
            guard recorded == 0 || recorded == clusterID else {
                throw DirectoryError.otherCluster(path: dataDirectory)
            }
            try data.node.join(clusterID: clusterID, nodeID: UInt64(position + 1), bootstrap: nil)
        } catch {
            throw .start(error.description)
        }
        states = try EmbeddedNode.openStates(of: groups, in: data, logger)
        workers = ["log", "reader", "apply", "maintenance"].map(loop.makeWorker)
        host = RaftHost(
            settings: settings, identity: data.node.identity, nonce: generator.next(), lane: loop, network: network,
            workers: RaftHost.Workers(
                log: workers[0], reader: workers[1], apply: workers[2], maintenance: workers[3]),
            disk: data.logDisk, snapshots: data.snapshots, log: data.log, recovered: data.recovered, logger: logger)
        if let damage = host.nodeRecordDamage {
            throw .start("the node's own record in the log is damaged (\(damage)); start it with an empty directory")
        }
        let rpc = RpcServer(address: address)
        host.register(on: rpc)
        do throws(TransportError) {
            try network.listen(on: address) { _ in rpc.makeHandler() }
        } catch {
            throw .start(error.description)
        }
        let host = self.host
        host.onFatal = { [loop] _ in loop.stop() }
        loop.setTurn { now in host.turn(now: now) }
        host.store = states
        host.remakeStateMachine = { [groups, states] record throws(StateMachineError) in
            guard case .volatile? = groups[record.group] else { return nil }
            return try states.open(record.store, group: record.group, birth: record.birth)
        }
        host.onStateMachine = { [weak self] record, machine in self?.machines[record.group] = machine }
        do throws(StateMachineError) { try startReplicas(members, position) } catch {
            throw .start(error.description)
        }
    }

    private static func openStates(
        of groups: [String: EmbeddedStateMachine], in data: DataDirectory, _ logger: Logger
    ) throws(EmbeddedError) -> SavedStates {
        let makers = groups.compactMapValues { group -> VolatileStateMachineMaker? in
            if case .volatile(let make) = group { make } else { nil }
        }
        let disk: any Disk
        do throws(DiskError) {
            disk = try data.disk.folder("states")
            try data.disk.syncDirectory()
        } catch {
            throw .start(error.description)
        }
        do throws(StateMachineError) {
            return try SavedStates(disk: disk, makers: makers) { logger.log(.error, $0) }
        } catch {
            throw .start(error.description)
        }
    }

    private func startReplicas(_ members: [NodeAddress], _ position: Int) throws(StateMachineError) {
        let known = Set(host.records.map(\.group))
        for record in host.records {
            guard let machine = try machine(of: record.group, number: record.store, birth: record.birth) else {
                continue
            }
            host.open(record, stateMachine: machine)
        }
        let birth = Configuration(peers: members.map { PeerID(address: $0) })
        for group in groups.keys.sorted() where !known.contains(group) {
            host.create(
                group: group, peer: PeerID(address: members[position]), birth: birth, kind: "embedded",
                makeStateMachine: { [unowned self] number throws(StateMachineError) in
                    guard let machine = try machine(of: group, number: number, birth: birth) else {
                        preconditionFailure("\(group) is one of the groups")
                    }
                    return machine
                }, completion: { _ in })
        }
        host.removeUnknownStates()
    }

    /// The state machine of `group` as it is on disk under `number`; nil if the program has no such group.
    private func machine(
        of group: String, number: UInt64, birth: Configuration
    ) throws(StateMachineError) -> (any StateMachine)? {
        switch groups[group] {
        case .volatile?: machines[group] = try states.open(number, group: group, birth: birth)
        case .selfKept(let machine)?: machines[group] = machine
        case nil: return nil
        }
        return machines[group]
    }

    private func runInThread() {
        let (loop, workers, host) = (self.loop, self.workers, self.host)
        let body = Unmanaged.passRetained(
            ThreadBody {
                loop.run()
                for worker in workers { worker.finish() }
                host.dismiss()
            })
        let status = pthread_create(
            &thread, nil,
            { argument in
                guard let argument else { return nil }
                Unmanaged<ThreadBody>.fromOpaque(argument).takeRetainedValue().run()
                return nil
            }, body.toOpaque())
        precondition(status == 0, "no thread can be created")
    }

    private static func clusterID(of name: String) -> UInt64 {
        // FNV-1a; never 0, which stands for no cluster
        name.utf8.reduce(0xcbf2_9ce4_8422_2325) { ($0 ^ UInt64($1)) &* 0x0000_0100_0000_01b3 } | 1
    }

    // MARK: use

    /// Proposes `command` to `group` and returns the state machine's reply once it is committed and applied.
    public func start(_ command: Bytes, on group: String) async throws(EmbeddedError) -> Bytes {
        let outcome = await ask(ProposalOutcome.refused(.stopping)) { host, answer in
            host.propose(command, to: group) { answer.give($0) }
        }
        switch outcome {
        case .applied(let reply, _): return reply
        case .notLeader(let leader): throw .notLeader(leader?.address)
        case .refused(let reason): throw .refused(reason)
        case .unknown: throw .outcomeUnknown
        }
    }

    /// Asks the state machine of `group`, linearizably: it has everything that was answered before the call.
    public func read(_ query: Bytes, from group: String) async throws(EmbeddedError) -> Bytes {
        if let reply = try await read(query, from: group, lease: true) { return reply }
        // the lease had lapsed by the time it was evaluated: a majority is asked
        guard let reply = try await read(query, from: group, lease: false) else {
            preconditionFailure("a read that asked a majority relies on no lease")
        }
        return reply
    }

    private func read(
        _ query: Bytes, from group: String, lease: Bool
    ) async throws(EmbeddedError) -> Bytes? {
        let outcome = await ask(ReadOutcome.refused(.stopping)) { host, answer in
            host.read(group, lease: lease) { answer.give($0) }
        }
        let moment: ReadMoment
        switch outcome {
        case .ready(let found): moment = found
        case .notLeader(let leader): throw .notLeader(leader?.address)
        case .refused(let reason): throw .refused(reason)
        }
        let unanswered = Result<Bytes, StateMachineError>??.none
        let reply = await ask(unanswered) { [self] host, answer in
            guard let machine = machines[group] else { preconditionFailure("\(group) has a replica") }
            host.evaluate(at: moment) { () -> Result<Bytes, StateMachineError> in
                do throws(StateMachineError) {
                    return .success(try machine.read(query))
                } catch {
                    return .failure(error)
                }
            } completion: {
                answer.give(.some($0))
            }
        }
        switch reply {
        case nil: throw .refused(.stopping)
        case .some(nil): return nil
        case .some(.some(.success(let bytes))): return bytes
        case .some(.some(.failure(let error))): throw .stateMachine(error.description)
        }
    }

    /// How this node's replica of `group` is doing; nil if there is none (yet).
    public func state(of group: String) async -> ReplicaStatus? {
        await ask(nil) { host, answer in answer.give(host.status(of: group)) }
    }

    /// Runs `start` on the lane and waits for its answer; `unanswered` if the node ends first.
    private func ask<Value: Sendable>(
        _ unanswered: Value, _ start: @escaping @Sendable (RaftHost, Answer<Value>) -> Void
    ) async -> Value {
        await withCheckedContinuation { continuation in
            let answer = Answer(continuation, unanswered: unanswered)
            loop.post { [host] in start(host, answer) }
        }
    }

    // MARK: end

    /// Hands leaderships over, makes everything durable and ends the node. Returns when it is done; call it or
    /// ``kill()``, once. The data directory is free when the node is released.
    public func stop() {
        loop.post { [host, loop] in
            host.stop(patience: .milliseconds(3000)) { loop.stop() }
        }
        pthread_join(thread, nil)
    }

    /// Ends the node without a farewell, much as a crash would; for tests. Instead of ``stop()``.
    public func kill() {
        loop.post { [loop] in loop.stop() }
        pthread_join(thread, nil)
    }
}

/// Whoever waits for a value from the lane. An answer that is dropped, because the node has ended, gives the value set
/// aside for that.
private final class Answer<Value: Sendable>: @unchecked Sendable {
    private let continuation: CheckedContinuation<Value, Never>
    private let unanswered: Value
    // on the lane, or where the last reference dies
    private var isGiven = false

    init(_ continuation: CheckedContinuation<Value, Never>, unanswered: Value) {
        self.continuation = continuation
        self.unanswered = unanswered
    }

    deinit { if !isGiven { continuation.resume(returning: unanswered) } }

    func give(_ value: Value) {
        isGiven = true
        continuation.resume(returning: value)
    }
}

/// What a thread runs.
private final class ThreadBody {
    let run: () -> Void
    init(_ run: @escaping () -> Void) { self.run = run }
}
