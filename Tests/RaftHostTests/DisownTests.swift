import RaftCore
import Simulator
import Testing

@testable import RaftHost
@testable import Transport

/// What a batch still owes when another core takes the place of the one that filled it.
@Suite("A batch of a core that is gone")
struct DisownTests {
    /// Two replicas, and requests to answer.
    private final class Scene {
        let cluster: HostCluster
        let lane: SimulatedLane
        private let channel: RpcChannel
        private(set) var answers: [Int: RpcResult] = [:]

        init() throws {
            var plan = HostCluster.Plan()
            plan.groups = ["hurt", "other"]
            plan.size = 1
            cluster = HostCluster(seed: 1, plan: plan)
            try cluster.start()
            cluster.awaitLeaders()
            lane = cluster.world.addNode(at: NodeAddress(ip: 10 << 24 | 201, port: 8100))
            channel = RpcChannel(
                address: NodeAddress(ip: 10 << 24 | 202, port: 8100), network: lane, clock: lane.clock)
        }

        func replica(_ group: String) throws -> Replica { try #require(cluster.nodes[0].host.byGroup[group]) }

        /// Requests under way, whose outcomes come into ``answers`` by their number.
        func requests(_ count: Int) throws -> [RpcResponder] {
            var responders: [RpcResponder] = []
            let server = RpcServer(address: channel.address)
            server.register("test.Service") { _, request in
                responders.append(request.responder)
                return true
            }
            try cluster.world.addNode(at: channel.address).listen(on: channel.address) { _ in server.makeHandler() }
            for number in 0..<count {
                lane.post { [self] in
                    channel.call(service: "test.Service", method: "wait", body: Bytes()) { self.answers[number] = $0 }
                }
            }
            #expect(cluster.run(limit: 1000) { responders.count == count })
            return responders
        }

        func failure(_ number: Int) -> Int32? {
            guard case .failed(let error)? = answers[number] else { return nil }
            return error.code
        }
    }

    private func appendReply(success: Bool) -> Message {
        let ticket = AppendTicket(term: Term(1), previous: .zero, count: 1, round: 0)
        return .appendReply(AppendReply(ticket: ticket, term: Term(1), success: success, lastIndex: nil))
    }

    private func marks(_ batch: LogBatch, of replica: Replica) -> [DurableMark] {
        batch.duties.compactMap { duty in
            if case .persisted(let writer, let mark) = duty, writer === replica { mark } else { nil }
        }
    }

    private func acknowledgements(_ batch: LogBatch, of replica: Replica) -> [Message] {
        batch.duties.compactMap { duty in
            if case .acknowledge(let writer, _, let message) = duty, writer === replica { message } else { nil }
        }
    }

    @Test("its completions vouch for nothing, and those of other replicas for what they did")
    func marks() throws {
        let scene = try Scene()
        let (hurt, other) = (try scene.replica("hurt"), try scene.replica("other"))
        let mark = DurableMark(term: Term(3), index: LogIndex(7))
        var batch = LogBatch()
        batch.duties = [.persisted(hurt, mark), .persisted(other, mark), .persisted(hurt, mark)]
        batch.disown(hurt)
        let nothing = DurableMark(term: .zero, index: .zero)
        #expect(marks(batch, of: hurt) == [nothing, nothing] && marks(batch, of: other) == [mark])
    }

    @Test("answers that vouch for entries are withdrawn: who asked hears that it must ask again; no other answer is")
    func acknowledgements() throws {
        let scene = try Scene()
        let (hurt, other) = (try scene.replica("hurt"), try scene.replica("other"))
        let responders = try scene.requests(4)
        let vote = Message.voteReply(
            VoteReply(isPreVote: false, requestTerm: Term(1), term: Term(1), granted: true))
        var batch = LogBatch()
        batch.duties = [
            .acknowledge(hurt, responders[0], appendReply(success: true)),
            .acknowledge(other, responders[1], appendReply(success: true)),
            .acknowledge(hurt, responders[2], appendReply(success: false)),
            .acknowledge(hurt, responders[3], vote),
        ]
        batch.disown(hurt)
        #expect(batch.duties.count == 4, "in their order, with what is owed to others")
        #expect(acknowledgements(batch, of: hurt) == [appendReply(success: false), vote])
        #expect(acknowledgements(batch, of: other) == [appendReply(success: true)])
        #expect(scene.answers.isEmpty)
        guard case .call(_, let withdraw) = batch.duties[0] else {
            Issue.record("\(batch.duties[0])")
            return
        }
        withdraw()
        #expect(scene.cluster.run(limit: 1000) { !scene.answers.isEmpty })
        #expect(scene.failure(0) == RaftHost.again && scene.answers.count == 1)
    }
}
