import CMessages
import RaftCore
import RaftStorage
public import Transport
import WireMessages

/// A process that said who it is; remembered on each of its connections.
final class KnownPeer {
    let run: NodeState.PeerRun
    let address: NodeAddress
    /// False once a later run of the same node was heard of: an old copy of its directory is heard no more.
    var isPresent = true
    init(run: NodeState.PeerRun, address: NodeAddress) {
        self.run = run
        self.address = address
    }
}

extension RaftHost {
    /// Makes `server` answer the services every host has: braft's for consensus, for its command line and for its page
    /// raft_stat, and our own for identity and liveness.
    public func register(on server: RpcServer) {
        // what is asked most is found first
        server.register(RaftHost.raftService) { [self] method, request in
            do throws(RaftWire.WireError) {
                switch method {
                case "pre_vote": try vote(request, isPreVote: true)
                case "request_vote": try vote(request, isPreVote: false)
                case "append_entries": try append(request)
                case "timeout_now": try timeoutNow(request)
                case "install_snapshot": try installSnapshot(request)
                default: return false
                }
            } catch {
                request.responder.fail(error.code, error.text)
            }
            return true
        }
        server.register(RaftHost.nodeService) { [self] method, request in
            guard method == "hello" else { return false }
            hello(request)
            return true
        }
        server.register(RaftHost.livenessService) { [self] method, request in
            guard method == "support" else { return false }
            support(request)
            return true
        }
        server.register(RaftHost.groupService) { [self] method, request in
            do throws(RaftWire.WireError) {
                switch method {
                case "release": try release(request)
                case "read_index": try readIndex(request)
                case "want_snapshot": try wantSnapshot(request)
                case "compare_applied": try compareApplied(request)
                case "fence": try takeFence(request)
                default: return false
                }
            } catch {
                request.responder.fail(error.code, error.text)
            }
            return true
        }
        registerSnapshots(on: server)
        registerCli(on: server)
        registerRaftStat(on: server)
        registerGuests(on: server)
    }

    // MARK: braft.RaftService

    static let malformed = RaftWire.WireError(code: RpcCode.badRequest, text: "malformed request")
    static let noSuchReplica = RaftWire.WireError(code: 2, text: "peer_id not exist")
    static let stranger = RaftWire.WireError(code: 1, text: "say hello first (flotilla.NodeService)")

    /// Finds the replica addressed by a node of this cluster, with braft's error numbers for what is wrong.
    func addressed(
        _ addressing: RaftWire.Addressing, _ request: RpcRequest, badSender: Int32
    ) throws(RaftWire.WireError) -> (Replica, PeerID) {
        guard isKnownPeer(request.connection) else { throw RaftHost.stranger }
        return try found(addressing, badSender: badSender)
    }

    /// The same for a request of braft's services, which a foreign node makes without saying hello.
    func addressedByAnybody(
        _ addressing: RaftWire.Addressing, _ request: RpcRequest, badSender: Int32
    ) throws(RaftWire.WireError) -> (Replica, PeerID) {
        let (replica, from) = try found(addressing, badSender: badSender)
        if !isKnownPeer(request.connection) { try checkStranger(from, on: request.connection, to: replica) }
        return (replica, from)
    }

    private func found(
        _ addressing: RaftWire.Addressing, badSender: Int32
    ) throws(RaftWire.WireError) -> (Replica, PeerID) {
        guard let to = PeerID(addressing.to) else { throw RaftWire.WireError(code: 22, text: "peer_id invalid") }
        guard let replica = byGroup[addressing.group], replica.id == to else {
            throw RaftHost.noSuchReplica
        }
        if let from = PeerID(addressing.from) { return (replica, from) }
        throw RaftWire.WireError(code: badSender, text: "server_id invalid")
    }

    /// The run of the node that said hello on this connection; zero if none did, and then it is a foreign one.
    func run(of request: RpcRequest) -> UInt64 {
        (request.connection.context as? KnownPeer)?.run.runNumber ?? 0
    }

    private func vote(_ request: RpcRequest, isPreVote: Bool) throws(RaftWire.WireError) {
        let (addressing, message) = try wire.decodeVoteRequest(request.body, isPreVote: isPreVote)
        let (replica, from) = try addressedByAnybody(addressing, request, badSender: 22)
        step(
            replica, .received(.voteRequest(message), from: from, isForeign: run(of: request) == 0),
            StepContext(responder: request.responder))
        lane.requestTurn()
    }

    private func append(_ request: RpcRequest) throws(RaftWire.WireError) {
        // the leader comes back with it later; memory must not fill up behind a log that stands still
        guard request.attachment.isEmpty || (waitingBytes < settings.batchBytes && !isLogTight),
            waitingDuties < settings.batchAnswers
        else {
            throw RaftWire.WireError(code: 16, text: "too much waits for the log")
        }
        let (addressing, message, entries) = try wire.decodeAppendRequest(request.body, attachment: request.attachment)
        let (replica, from) = try addressedByAnybody(addressing, request, badSender: 1003)
        let run = run(of: request)
        // one that is deposed is not followed
        if run == 0, message.term >= replica.raft.term { try hearForeignLeader(replica) }
        if replica.isGuest, let answer = try guestAnswer(to: message, from: from, replica) {
            // a braft counts whatever is answered for its lease, so the leader is owed what any append gives it
            var heard = message
            (heard.entries, heard.configurations) = ([], [])
            step(replica, .received(.appendRequest(heard), from: from, run: run, isForeign: run == 0))
            lane.requestTurn()
            return request.responder.reply(body: wire.packReply(.appendReply(answer)))
        }
        step(
            replica, .received(.appendRequest(message), from: from, run: run, isForeign: run == 0),
            StepContext(responder: request.responder, incoming: entries))
        lane.requestTurn()
    }

    private func timeoutNow(_ request: RpcRequest) throws(RaftWire.WireError) {
        let (addressing, message) = try wire.decodeTimeoutNowRequest(request.body)
        let (replica, from) = try addressedByAnybody(addressing, request, badSender: 22)
        // leadership would only move from one who cannot serve to another
        guard canServe(replica) else {
            let refusal = TimeoutNowReply(term: replica.raft.term, success: false)
            return request.responder.reply(body: wire.packReply(.timeoutNowReply(refusal)))
        }
        step(
            replica, .received(.timeoutNowRequest(message), from: from, isForeign: run(of: request) == 0),
            StepContext(responder: request.responder))
        lane.requestTurn()
    }

    // MARK: flotilla.GroupService

    private func release(_ request: RpcRequest) throws(RaftWire.WireError) {
        let (addressing, message) = try wire.decodeReleaseRequest(request.body)
        let (replica, from) = try addressed(addressing, request, badSender: 22)
        step(replica, .received(.releaseRequest(message), from: from), StepContext(responder: request.responder))
        lane.requestTurn()
    }

    private func readIndex(_ request: RpcRequest) throws(RaftWire.WireError) {
        nextRead += 1
        let (addressing, message) = try wire.decodeReadIndexRequest(request.body, sequence: nextRead)
        let (replica, from) = try addressed(addressing, request, badSender: 22)
        guard replica.questions.count < settings.reads else {
            throw RaftWire.WireError(code: 16, text: "too many reads wait")
        }
        replica.questions[message.sequence] = request.responder
        step(replica, .received(.readIndexRequest(message), from: from))
        if let reply = effects.reply { answerQuestion(message.sequence, of: replica, reply) }
        lane.requestTurn()
    }

    /// Answers a follower that asked for the read index.
    func answerQuestion(_ sequence: UInt64, of replica: Replica, _ reply: Message) {
        replica.questions.removeValue(forKey: sequence)?.reply(body: wire.packReply(reply))
    }

    // MARK: flotilla.LivenessService

    private func support(_ request: RpcRequest) {
        let parsed = wire.arena.scope { arena -> (NodeLiveness.Request, NodeAddress)? in
            guard let message = arena.unpack(flotilla__support_request__init, request.body)?.pointee,
                let from = NodeAddress(String(field: message.from))
            else { return nil }
            return (
                NodeLiveness.Request(
                    runNumber: message.run_number, sequence: message.sequence, asks: message.asks != 0), from
            )
        }
        guard let (message, from) = parsed else {
            return request.responder.fail(RpcCode.badRequest, "malformed request")
        }
        guard let peer = request.connection.context as? KnownPeer, peer.isPresent, peer.address == from else {
            return request.responder.fail(1, "say hello first (flotilla.NodeService)")
        }
        now = lane.clock.now
        if let link = linkByNode[from] {
            link.data.reconnectNow()
            link.liveness.reconnectNow()
            lane.requestTurn()
        }
        stepLiveness(.received(message, from: from, wallClock: lane.clock.wallClockMilliseconds))
        guard let reply = livenessEffects.reply else {
            return request.responder.fail(1, "no promise for this run of \(from)")
        }
        wire.arena.scope { arena in
            let response = arena.make(flotilla__support_reply__init)
            response.pointee.sequence = reply.sequence
            response.pointee.granted = reply.granted ? 1 : 0
            response.pointee.epoch = reply.epoch
            response.pointee.run_number = reply.runNumber
            response.pointee.wall_clock_ms = reply.wallClockMilliseconds
            if let promise = reply.promise {
                response.pointee.has_promise_ms = 1
                response.pointee.promise_ms = UInt64(promise.milliseconds)
            }
            request.responder.reply(response)
        }
    }

    // MARK: flotilla.NodeService

    /// Refuses another cluster, another incarnation than the recorded one, and an older run or a second process of the
    /// present one: an old copy of a directory cannot take part. What is accepted is durable before it is answered.
    private func hello(_ request: RpcRequest) {
        let parsed = wire.arena.scope {
            arena -> (run: NodeState.PeerRun, cluster: UInt64, format: UInt32, from: NodeAddress)? in
            guard let message = arena.unpack(flotilla__hello_request__init, request.body)?.pointee,
                let address = NodeAddress(String(field: message.address))
            else { return nil }
            let run = NodeState.PeerRun(
                nodeID: message.node_id, incarnation: message.incarnation, runNumber: message.run_number,
                nonce: message.nonce)
            return (run, message.cluster_id, message.format, address)
        }
        guard let parsed else { return request.responder.fail(RpcCode.badRequest, "malformed hello") }
        guard !isOnItsOwn else {
            return request.responder.fail(RpcCode.noMethod, "this node is in no cluster, and hears everybody")
        }
        if let refusal = refusal(of: parsed.run, cluster: parsed.cluster, format: parsed.format) {
            logger.log(
                identity.clusterID == 0 ? .debug : .warning, "hello refused",
                [("node", "\(parsed.run.nodeID)"), ("from", request.connection.peerDescription), ("problem", refusal)])
            let isElsewhere = identity.clusterID == 0 || parsed.cluster != identity.clusterID
            return answerHello(request, error: isElsewhere ? RaftHost.elsewhere : 16, refusal)
        }
        remember(parsed.run) { [self] in accept(parsed.run, at: parsed.from, request) }
    }

    /// Keeps the highest run of a peer; `done` is called when it is durable.
    private func remember(_ run: NodeState.PeerRun, then done: @escaping () -> Void) {
        let position = nodeState.peers.firstIndex { $0.nodeID >= run.nodeID } ?? nodeState.peers.count
        let isKnown = position < nodeState.peers.count && nodeState.peers[position].nodeID == run.nodeID
        // answered at once if nothing is left to write, for a full disk must not keep nodes apart that know each other
        if durableRuns[run.nodeID] == run { return done() }
        if isKnown, nodeState.peers[position] == run {
            // the write that remembers it is under way
            return whenDurable(of: 0, done)
        }
        welcomed[run.nodeID]?.isPresent = false
        if isKnown { nodeState.peers[position] = run } else { nodeState.peers.insert(run, at: position) }
        writeNodeState { [self] in
            durableRuns[run.nodeID] = run
            done()
        }
    }

    private func refusal(of run: NodeState.PeerRun, cluster: UInt64, format: UInt32) -> String? {
        guard format <= 1 else { return "hello has format \(format), newer than this node understands" }
        guard identity.clusterID != 0 else { return "this node belongs to no cluster yet" }
        guard cluster == identity.clusterID else { return "it belongs to another cluster" }
        if let recorded = recordedIncarnation(run.nodeID), recorded != run.incarnation {
            return "its data directory is not the one recorded for node \(run.nodeID)"
        }
        guard let known = nodeState.peers.first(where: { $0.nodeID == run.nodeID }) else { return nil }
        if known.incarnation != run.incarnation {
            return "its data directory is not the one known for node \(run.nodeID)"
        }
        if run.runNumber < known.runNumber {
            return "run \(run.runNumber) is older than run \(known.runNumber), heard before"
        }
        if run.runNumber == known.runNumber, run.nonce != known.nonce {
            return "another process already used run \(run.runNumber): a copied data directory"
        }
        return nil
    }

    private func accept(_ run: NodeState.PeerRun, at address: NodeAddress, _ request: RpcRequest) {
        let peer: KnownPeer
        if let known = welcomed[run.nodeID], known.run == run, known.address == address {
            peer = known
        } else {
            welcomed[run.nodeID]?.isPresent = false
            peer = KnownPeer(run: run, address: address)
            welcomed[run.nodeID] = peer
        }
        request.connection.context = peer
        if let link = linkByNode[address], link.kind == .foreign || link.livenessKind == .foreign {
            // what answered there is gone, and its connection does not know yet
            link.data.reset(reason: "one of our nodes is there now")
            link.liveness.reset(reason: "one of our nodes is there now")
        }
        answerHello(request, error: 0, nil)
        meetAgain(address)
    }

    private func answerHello(_ request: RpcRequest, error: UInt32, _ message: String?) {
        wire.arena.scope { arena in
            let reply = arena.make(flotilla__hello_reply__init)
            reply.pointee.error = error
            if let message { reply.pointee.message = arena.string(message) }
            reply.pointee.has_node_id = 1
            reply.pointee.node_id = identity.nodeID
            reply.pointee.has_incarnation = 1
            reply.pointee.incarnation = identity.incarnation
            reply.pointee.has_run_number = 1
            reply.pointee.run_number = identity.runNumber
            reply.pointee.has_nonce = 1
            reply.pointee.nonce = nonce
            request.responder.reply(reply)
        }
    }

    /// What came of a hello.
    enum HelloOutcome {
        /// A node of this cluster, and the one it should be.
        case welcome
        /// Something that does not speak our services.
        case foreign
        /// A node of ours that shares no cluster with this one; braft's protocol is what they have in common.
        case elsewhere
        /// Nobody to talk to, or nobody who wants to.
        case refused
    }

    /// Opens an outgoing connection: says who we are, and checks who answers.
    func sayHello(on channel: RpcChannel, to node: NodeAddress, _ done: @escaping (HelloOutcome) -> Void) {
        guard !isOnItsOwn else { return done(.foreign) }
        guard identity.clusterID != 0 else { return done(.elsewhere) }
        wire.arena.scope { arena in
            let message = arena.make(flotilla__hello_request__init)
            message.pointee.format = 1
            message.pointee.cluster_id = identity.clusterID
            message.pointee.node_id = identity.nodeID
            message.pointee.incarnation = identity.incarnation
            message.pointee.run_number = identity.runNumber
            message.pointee.nonce = nonce
            message.pointee.address = arena.string(identity.address.description)
            channel.call(
                service: RaftHost.nodeService, method: "hello", message: message, attachment: [],
                deadline: lane.clock.now + .milliseconds(5000)
            ) { [self] result in
                switch result {
                case .reply(let reply): welcome(reply.body, from: node, done)
                case .failed(let error):
                    let isForeign = error.code == RpcCode.noService || error.code == RpcCode.noMethod
                    done(isForeign ? .foreign : .refused)
                }
            }
        }
    }

    /// Whoever answers is judged like one who asks: an old copy of a directory may neither ask nor answer.
    private func welcome(_ body: Bytes, from node: NodeAddress, _ done: @escaping (HelloOutcome) -> Void) {
        let parsed = wire.arena.scope { arena -> (error: UInt32, text: String, run: NodeState.PeerRun)? in
            arena.unpack(flotilla__hello_reply__init, body).map {
                let run = NodeState.PeerRun(
                    nodeID: $0.pointee.node_id, incarnation: $0.pointee.incarnation, runNumber: $0.pointee.run_number,
                    nonce: $0.pointee.nonce)
                return ($0.pointee.error, String(field: $0.pointee.message), run)
            }
        }
        guard let parsed else { return done(.refused) }
        if parsed.error != 0 {
            logger.log(.info, "hello was refused", [("node", node.description), ("problem", parsed.text)])
            return done(parsed.error == RaftHost.elsewhere ? .elsewhere : .refused)
        }
        if let refusal = refusal(of: parsed.run, cluster: identity.clusterID, format: 1) {
            logger.log(.warning, "peer is not who it should be", [("node", node.description), ("problem", refusal)])
            return done(.refused)
        }
        remember(parsed.run) { done(.welcome) }
    }
}
