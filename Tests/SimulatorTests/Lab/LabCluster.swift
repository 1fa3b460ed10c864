import Glibc
import Testing

@testable import RaftCore
@testable import Simulator

/// What the Raft labs of MIT 6.5840 do to a cluster of servers, in simulated time: they start commands at whoever
/// leads, cut servers off, crash them, and count who has committed what.
///
/// The labs number commands from 1; a log of ours also holds the entry with which each leader begins. Indexes here are
/// those of the log, and ``ordinal(of:)`` gives the labs' number.
struct LabCluster {
    /// A scenario did not come to its end.
    struct Failure: Error, CustomStringConvertible {
        let description: String
    }

    /// `RAFT_LAB_SEEDS=n` runs every scenario n times.
    static let seeds: Range<UInt64> = {
        let wanted = getenv("RAFT_LAB_SEEDS").flatMap { UInt64(String(cString: $0)) } ?? 1
        return 1..<1 + wanted
    }()
    /// The labs' generous bound for an election, in milliseconds.
    static let electionTime: Int64 = 1000

    private(set) var cluster: CoreCluster {
        didSet {
            guard !isJudged, let violation = cluster.judge.violation else { return }
            isJudged = true
            Issue.record("\(violation)")
        }
    }
    /// Whether a violation was recorded: it stays.
    private var isJudged = false
    private(set) var isConnected: [Bool]
    private var random: SeededRandom

    init(servers: Int, seed: UInt64, isReliable: Bool = true, snapshotEvery: Int? = nil) {
        cluster = CoreCluster(size: servers, seed: seed)
        // apart from the commands
        cluster.nextValue = 1 << 40
        cluster.compactsEvery = snapshotEvery
        isConnected = Array(repeating: true, count: servers)
        random = SeededRandom(seed: seed &+ 1)
        // as a caller of the labs' network does, soon
        cluster.faults.told = 1000
        cluster.faults.tellingOfLoss = 1..<100
        setReliable(isReliable)
    }

    // MARK: Time, chance, network

    var servers: Range<Int> { cluster.nodes.indices }
    var traffic: CoreTraffic { cluster.traffic }
    /// Bytes of the longest log, in memory.
    var logSize: Int { cluster.nodes.map(\.log.size).max()! }

    mutating func sleep(_ milliseconds: Int64) { cluster.run(milliseconds: milliseconds) }

    mutating func chance(_ range: Range<Int64>) -> Int64 { random.number(in: range) }

    /// A command that no other is likely to equal.
    mutating func anyCommand() -> UInt64 { UInt64(random.number(in: 1_000_000..<1 << 40)) }

    /// An unreliable network loses a tenth of all requests and of all answers, and delays the rest.
    mutating func setReliable(_ isReliable: Bool) {
        cluster.faults.lost = isReliable ? 0 : 100
        cluster.faults.delay = isReliable ? 1..<10 : 1..<27
    }

    /// Two answers of three come up to two seconds late, after others.
    mutating func setLongReordering(_ isOn: Bool) { cluster.faults.reordersAnswers = isOn }

    mutating func disconnect(_ servers: Int...) {
        for server in servers { isConnected[server] = false }
        sever()
    }

    mutating func connect(_ servers: Int...) {
        for server in servers { isConnected[server] = true }
        sever()
    }

    private mutating func sever() {
        cluster.severed = []
        for from in servers {
            for to in servers where !isConnected[from] || !isConnected[to] { cluster.sever(from, to) }
        }
    }

    /// The server `distance` places behind `server`.
    func next(_ server: Int, _ distance: Int = 1) -> Int { (server + distance) % servers.count }

    // MARK: Servers

    func isRunning(_ server: Int) -> Bool { cluster.nodes[server].isUp }

    mutating func crash(_ servers: Int...) {
        for server in servers {
            cluster.crash(server, restarts: false)
            disconnect(server)
        }
    }

    /// Starts a crashed server, or a running one anew, and leaves it cut off.
    mutating func restart(_ servers: Int...) {
        for server in servers {
            crash(server)
            cluster.start(server)
        }
    }

    mutating func restartAll() {
        for server in servers { crash(server) }
        for server in servers {
            restart(server)
            connect(server)
        }
    }

    // MARK: Leaders

    private func leads(_ server: Int) -> Bool {
        isConnected[server] && isRunning(server) && cluster.nodes[server].raft.isLeader
    }

    /// Waits for a leader among the connected servers; in its term there must be no other.
    mutating func oneLeader() throws -> Int {
        for _ in 0..<10 {
            sleep(chance(450..<550))
            let leaders = servers.filter(leads)
            let terms = leaders.map { cluster.nodes[$0].raft.term }
            guard let newest = terms.max() else { continue }
            guard Set(terms).count == terms.count else { throw Failure(description: "two leaders in one of \(terms)") }
            return leaders[terms.firstIndex(of: newest)!]
        }
        throw Failure(description: "no leader: \(cluster.description)")
    }

    func expectNoLeader() throws {
        if let leader = servers.first(where: leads) { throw Failure(description: "\(leader) leads without a majority") }
    }

    /// The term that all connected servers agree on.
    func agreedTerm() throws -> Term {
        let terms = Set(servers.filter { isConnected[$0] }.map { cluster.nodes[$0].raft.term })
        guard terms.count == 1 else { throw Failure(description: "the terms \(terms)") }
        return terms.first!
    }

    func term(of server: Int) -> Term { cluster.nodes[server].raft.term }

    // MARK: Commands

    /// Starts a command; nil if the server does not lead. Where it leads, this is where the command will stand if it is
    /// ever committed.
    @discardableResult
    mutating func start(_ command: UInt64, size: Int = 20, at server: Int) -> LogIndex? {
        guard isRunning(server), cluster.nodes[server].raft.acceptsProposals else { return nil }
        cluster.propose([CoreEntry(term: .zero, kind: .data, value: command, size: size)], at: server)
        return cluster.nodes[server].raft.lastIndex
    }

    /// Starts a command at a server that leads.
    mutating func mustStart(_ command: UInt64, at server: Int) throws -> LogIndex {
        guard let index = start(command, at: server) else { throw Failure(description: "\(server) does not lead") }
        return index
    }

    /// How many servers have applied the entry at `index`.
    func committed(_ index: LogIndex) -> Int {
        cluster.nodes.filter { $0.isUp && $0.state.index >= index }.count
    }

    func command(at index: LogIndex) -> UInt64? {
        index <= cluster.judge.commitIndex ? cluster.judge.committed[Int(index.rawValue) - 1].value : nil
    }

    /// How many commands are committed up to `index`.
    func ordinal(of index: LogIndex) -> Int {
        cluster.judge.committed.prefix(Int(index.rawValue)).filter { $0.kind == .data }.count
    }

    /// All committed commands in order.
    var commands: [UInt64] { cluster.judge.committed.filter { $0.kind == .data }.map(\.value) }

    /// Waits for the entry at `index` to be applied by `count` servers.
    mutating func wait(_ index: LogIndex, _ count: Int, milliseconds: Int64 = 10_000) throws {
        let isThere = cluster.run(milliseconds: milliseconds) { Self.applied($0, index) >= count }
        guard isThere else { throw Failure(description: "\(index) by \(committed(index)) of \(count)") }
    }

    private static func applied(_ cluster: CoreCluster, _ index: LogIndex) -> Int {
        var count = 0
        for node in cluster.nodes where node.isUp && node.state.index >= index { count += 1 }
        return count
    }

    /// Has one command agreed on by at least `count` servers within ten seconds. The leader may turn out to be the
    /// wrong one; with `retry` another is tried then.
    @discardableResult
    mutating func one(_ command: UInt64, size: Int = 20, _ count: Int, retry: Bool = false) throws -> LogIndex {
        let end = cluster.time + 10_000_000_000
        while cluster.time < end {
            guard let leader = servers.first(where: leads), let index = start(command, size: size, at: leader) else {
                sleep(50)
                continue
            }
            cluster.run(milliseconds: 2000) { Self.applied($0, index) >= count }
            if committed(index) >= count, self.command(at: index) == command { return index }
            guard retry else { break }
        }
        throw Failure(description: "no agreement on \(command): \(cluster.description)")
    }
}
