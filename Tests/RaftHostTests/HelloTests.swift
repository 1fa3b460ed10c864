import CMessages
import RaftCore
import RaftStorage
import Simulator
import Testing
import WireMessages

@testable import RaftHost
@testable import Transport

/// Somebody who says hello to a host, well or badly.
private final class Stranger {
    struct Claim {
        var format: UInt32 = 1
        var cluster: UInt64 = 99
        var node: UInt64 = 7
        var incarnation: UInt64 = 700
        var run: UInt64 = 3
        var nonce: UInt64 = 30
    }

    let lane: SimulatedLane
    private let world: SimulatedWorld
    private var channels: [RpcChannel] = []

    init(_ world: SimulatedWorld) {
        self.world = world
        lane = world.addNode(at: NodeAddress(ip: 10 << 24 | 200, port: 8100))
        lane.setTurn { [unowned self] now in channels.compactMap { $0.expire(now: now) }.min() }
    }

    func connect(to node: SimulatedNode) -> RpcChannel {
        let channel = RpcChannel(address: node.address, network: lane, clock: lane.clock)
        channels.append(channel)
        return channel
    }

    /// Says it; the outcome is called with the refusal, or nil.
    func say(_ claim: Claim, on channel: RpcChannel, outcome: @escaping (String?) -> Void) {
        lane.post { [self] in
            Arena().scope { arena in
                let message = arena.make(flotilla__hello_request__init)
                message.pointee.format = claim.format
                message.pointee.cluster_id = claim.cluster
                message.pointee.node_id = claim.node
                message.pointee.incarnation = claim.incarnation
                message.pointee.run_number = claim.run
                message.pointee.nonce = claim.nonce
                message.pointee.address = arena.string(lane.address.description)
                channel.call(service: RaftHost.nodeService, method: "hello", message: message) { result in
                    switch result {
                    case .failed(let error): outcome("call failed: \(error)")
                    case .reply(let reply):
                        let answer = Arena().scope { arena in
                            arena.unpack(flotilla__hello_reply__init, reply.body).map {
                                ($0.pointee.error, String(field: $0.pointee.message))
                            }
                        }
                        guard let (error, text) = answer else { return outcome("malformed") }
                        outcome(error == 0 ? nil : text)
                    }
                }
            }
        }
    }

    /// Says it on a new connection and waits for the answer.
    func say(_ claim: Claim, to node: SimulatedNode) -> String? {
        var answer: String?? = .none
        say(claim, on: connect(to: node)) { answer = .some($0) }
        world.runUntil(limit: .milliseconds(5000)) { answer != nil }
        return answer ?? "no answer"
    }

    /// Answers every hello from now on, as what it claims to be when it is asked.
    func answer(as claim: @escaping () -> Claim) throws {
        let server = RpcServer(address: lane.address)
        server.register(RaftHost.nodeService) { _, request in
            let claim = claim()
            Arena().scope { arena in
                let reply = arena.make(flotilla__hello_reply__init)
                reply.pointee.has_node_id = 1
                reply.pointee.node_id = claim.node
                reply.pointee.has_incarnation = 1
                reply.pointee.incarnation = claim.incarnation
                reply.pointee.has_run_number = 1
                reply.pointee.run_number = claim.run
                reply.pointee.has_nonce = 1
                reply.pointee.nonce = claim.nonce
                request.responder.reply(reply)
            }
            return true
        }
        try lane.listen(on: lane.address) { _ in server.makeHandler() }
    }

    /// Asks for a pre-vote; the error, or nil.
    func askForVote(of node: SimulatedNode, on channel: RpcChannel) -> String? {
        var answer: String?? = .none
        let wire = RaftWire()
        let request = VoteRequest(isPreVote: true, term: Term(1), last: .zero)
        lane.post { [self] in
            wire.arena.scope { arena in
                let body = wire.voteRequest(
                    request, group: "g0", from: PeerID(address: lane.address), to: node.peer, arena: arena)
                channel.call(service: RaftHost.raftService, method: "pre_vote", message: body) { result in
                    if case .failed(let error) = result { answer = .some(error.text) } else { answer = .some(nil) }
                }
            }
        }
        world.runUntil(limit: .milliseconds(5000)) { answer != nil }
        return answer ?? "no answer"
    }
}

@Suite("Identity: who may speak to a host")
struct HelloTests {
    private let cluster: HostCluster
    private let node: SimulatedNode
    private let stranger: Stranger

    init() throws {
        var plan = HostCluster.Plan()
        plan.size = 1
        cluster = HostCluster(seed: 5, plan: plan)
        node = cluster.nodes[0]
        stranger = Stranger(cluster.world)
        try cluster.start()
        cluster.awaitLeaders()
    }

    @Test("A node of the cluster is welcome, again and again") func welcome() {
        #expect(stranger.say(.init(), to: node) == nil)
        #expect(stranger.say(.init(), to: node) == nil)
    }

    @Test("Another cluster is refused") func otherCluster() throws {
        let refusal = try #require(stranger.say(.init(cluster: 98), to: node))
        #expect(refusal.contains("another cluster"))
    }

    @Test("A newer format is refused") func newerFormat() throws {
        let refusal = try #require(stranger.say(.init(format: 2), to: node))
        #expect(refusal.contains("format 2"))
    }

    @Test("Another data directory under a known node's number is refused") func otherIncarnation() throws {
        #expect(stranger.say(.init(), to: node) == nil)
        let refusal = try #require(stranger.say(.init(incarnation: 701, run: 4), to: node))
        #expect(refusal.contains("data directory"))
    }

    @Test("A data directory other than the recorded one is refused at first sight") func recordedIncarnation() throws {
        node.host.recordedIncarnation = { $0 == 7 ? 701 : nil }
        let refusal = try #require(stranger.say(.init(), to: node))
        #expect(refusal.contains("recorded"))
        #expect(stranger.say(.init(incarnation: 701), to: node) == nil)
    }

    @Test("An older run is refused, and so is a second process of the present one") func runs() throws {
        #expect(stranger.say(.init(run: 3, nonce: 30), to: node) == nil)
        #expect(try #require(stranger.say(.init(run: 2, nonce: 20), to: node)).contains("older"))
        #expect(try #require(stranger.say(.init(run: 3, nonce: 31), to: node)).contains("copied"))
        #expect(stranger.say(.init(run: 4, nonce: 40), to: node) == nil)
        #expect(stranger.say(.init(run: 3, nonce: 30), to: node) != nil)
    }

    @Test("What was welcomed is remembered through a loss of power") func durable() throws {
        #expect(stranger.say(.init(run: 3, nonce: 30), to: node) == nil)
        node.crash()
        try node.start()
        cluster.run(.milliseconds(100))
        #expect(stranger.say(.init(run: 2, nonce: 20), to: node) != nil)
        #expect(stranger.say(.init(run: 3, nonce: 31), to: node) != nil)
        #expect(stranger.say(.init(run: 3, nonce: 30), to: node) == nil)
    }

    @Test("No hello is answered before it is durable, not even a second one of the same run")
    func durableBeforeAnswered() {
        cluster.run(.milliseconds(200))
        cluster.world.settings.jobDelay = 50_000_000..<50_000_001
        let syncs = node.logDisk.syncCount
        var syncsWhenAnswered: [Int] = []
        for _ in 0..<2 {
            stranger.say(.init(), on: stranger.connect(to: node)) { [node] refusal in
                #expect(refusal == nil)
                syncsWhenAnswered.append(node.logDisk.syncCount)
            }
        }
        cluster.run(.milliseconds(1000))
        #expect(syncsWhenAnswered.count == 2)
        #expect(syncsWhenAnswered.allSatisfy { $0 > syncs })
    }

    @Test("Without hello nothing is heard") func silence() {
        let channel = stranger.connect(to: node)
        #expect(stranger.askForVote(of: node, on: channel)?.contains("hello") == true)
        stranger.say(.init(), on: channel) { #expect($0 == nil) }
        cluster.run(.milliseconds(200))
        #expect(stranger.askForVote(of: node, on: channel) == nil)
    }

    @Test("Once a newer run has been heard, a connection of the older one is not heard any more")
    func olderConnection() {
        let older = stranger.connect(to: node)
        stranger.say(.init(run: 3, nonce: 30), on: older) { #expect($0 == nil) }
        cluster.run(.milliseconds(200))
        #expect(stranger.askForVote(of: node, on: older) == nil)
        #expect(stranger.say(.init(run: 4, nonce: 40), to: node) == nil)
        #expect(stranger.askForVote(of: node, on: older) != nil)
    }
}

@Suite("Identity: whom a host speaks to")
struct AnswererTests {
    private let cluster: HostCluster
    private let node: SimulatedNode
    private let stranger: Stranger

    init() throws {
        var plan = HostCluster.Plan()
        plan.size = 1
        cluster = HostCluster(seed: 7, plan: plan)
        node = cluster.nodes[0]
        stranger = Stranger(cluster.world)
        try cluster.start()
        cluster.awaitLeaders()
    }

    /// Whether a connection to the stranger opens, on which calls then leave.
    private func opens() -> Bool {
        let host = node.host!
        let channel = host.makeChannel(to: stranger.lane.address)
        node.lane.post { channel.call(service: "S", method: "m", body: Bytes()) { _ in } }
        cluster.run(.milliseconds(500))
        return channel.isConnected
    }

    @Test("Whoever answers an older run, or the present one in another process, is not spoken to") func runs() throws {
        var claim = Stranger.Claim(run: 3, nonce: 30)
        try stranger.answer { claim }
        #expect(opens())
        claim = .init(run: 2, nonce: 20)
        #expect(!opens())
        claim = .init(run: 3, nonce: 31)
        #expect(!opens())
        claim = .init(incarnation: 701, run: 4, nonce: 40)
        #expect(!opens())
        claim = .init(run: 4, nonce: 40)
        #expect(opens())
        claim = .init(run: 3, nonce: 30)
        #expect(!opens())
    }

    @Test("The run of who answered is durable before anything is sent to it") func durable() throws {
        try stranger.answer { .init(run: 3, nonce: 30) }
        node.logDisk.copiesOnWrite = true
        node.logDisk.isFull = true
        #expect(!opens())
        node.logDisk.isFull = false
        cluster.run(.milliseconds(1000))
        #expect(opens())
        node.crash()
        try node.start()
        cluster.run(.milliseconds(100))
        #expect(stranger.say(.init(run: 2, nonce: 20), to: node) != nil)
    }

    @Test("Who answers a newer run ends what connections of the older one have to say") func olderConnection() throws {
        let older = stranger.connect(to: node)
        stranger.say(.init(run: 3, nonce: 30), on: older) { #expect($0 == nil) }
        cluster.run(.milliseconds(200))
        #expect(stranger.askForVote(of: node, on: older) == nil)
        try stranger.answer { .init(run: 4, nonce: 40) }
        #expect(opens())
        #expect(stranger.askForVote(of: node, on: older) != nil)
        // the newer one has yet to say hello itself
        #expect(stranger.say(.init(run: 4, nonce: 40), to: node) == nil)
    }
}

@Suite("The birth of a replica")
struct CreateTests {
    private func create(
        _ node: SimulatedNode, _ cluster: HostCluster, group: String, peer: PeerID? = nil, times: Int = 1,
        answered: @escaping (String?) -> Void
    ) {
        let host = node.host!
        let birth = Configuration(peers: [node.peer])
        node.lane.post {
            for _ in 0..<times {
                host.create(group: group, peer: peer ?? node.peer, birth: birth, kind: "k") { number in
                    RecordingMachine(
                        node: Int(number), history: AppliedHistory(group: group), store: MachineStore(), seed: 1,
                        flushesOneOf: .max)
                } completion: {
                    answered($0)
                }
            }
        }
    }

    private func single() throws -> HostCluster {
        var plan = HostCluster.Plan()
        plan.size = 1
        let cluster = HostCluster(seed: 6, plan: plan)
        try cluster.start()
        cluster.awaitLeaders()
        return cluster
    }

    @Test("It happens once, however often it is asked for, and is durable before anybody is told")
    func idempotent() throws {
        let cluster = try single()
        let node = cluster.nodes[0]
        cluster.run(.milliseconds(200))
        let syncs = node.logDisk.syncCount
        var answers: [String?] = []
        create(node, cluster, group: "new", times: 3) { [node] problem in
            answers.append(problem)
            #expect(node.logDisk.syncCount > syncs)
            #expect(node.host.status(of: "new") != nil)
        }
        cluster.run(limit: 2000) { answers.count == 3 }
        #expect(answers == [nil, nil, nil])
        #expect(node.host.records.map(\.group) == ["g0", "new"])
        #expect(node.host.records.map(\.number) == [1, 2])
        create(node, cluster, group: "new") { answers.append($0) }
        cluster.run(limit: 2000) { answers.count == 4 }
        #expect(answers.last == .some(nil) && node.host.records.count == 2)
    }

    @Test("Another member of a group that the node holds is refused") func otherMember() throws {
        let cluster = try single()
        let node = cluster.nodes[0]
        var problem: String?
        create(node, cluster, group: "g0", peer: PeerID(address: node.address, idx: 1)) { problem = $0 }
        cluster.run(limit: 2000) { problem != nil }
        #expect(problem?.contains("another replica") == true)
        #expect(node.host.records.count == 1)
    }

    @Test("It is remembered through a loss of power, and its number is not given again") func remembered() throws {
        let cluster = try single()
        let node = cluster.nodes[0]
        var isDone = false
        create(node, cluster, group: "new") { _ in isDone = true }
        cluster.run(limit: 2000) { isDone }
        node.crash()
        try node.start()
        #expect(node.host.records.map(\.number) == [1, 2])
        isDone = false
        create(node, cluster, group: "newer") { _ in isDone = true }
        cluster.run(limit: 2000) { isDone }
        #expect(node.host.records.map(\.number) == [1, 2, 3])
    }

    @Test("A state machine that cannot be made is no replica") func noMachine() throws {
        let cluster = try single()
        let node = cluster.nodes[0]
        var problem: String?
        let host = node.host!
        node.lane.post {
            host.create(group: "bad", peer: node.peer, birth: Configuration(peers: [node.peer]), kind: "k") {
                (number) throws(StateMachineError) in
                throw StateMachineError("no store \(number)")
            } completion: {
                problem = $0
            }
        }
        cluster.run(limit: 2000) { problem != nil }
        #expect(problem == "no store 2")
        #expect(node.host.records.map(\.group) == ["g0"] && node.host.status(of: "bad") == nil)
    }
}
