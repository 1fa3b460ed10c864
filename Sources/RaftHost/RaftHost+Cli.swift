import CMessages
public import RaftCore
public import Transport
import WireMessages

// braft.CliService: what braft's clients, `braft_cli` and its library among them, ask of the groups here. Whoever keeps a
// record of a group's members changes them, see ``RaftHost/memberAuthority``; otherwise this host does.

/// What is to be different about the members of a group.
public enum MemberOrder: Equatable, Sendable {
    /// One more.
    case add(PeerID)
    /// One less.
    case remove(PeerID)
    /// These, not empty.
    case replace([PeerID])
    /// These, not empty, put in force on one replica without asking anybody.
    case reset([PeerID])
}

/// What came of it.
public enum MemberAnswer: Sendable {
    /// Committed, or so before; a reset is in force only. The members there were, and those there are.
    case done(before: [PeerID], after: [PeerID])
    /// Nothing was changed as far as is known; the number is an errno, or one of braft's.
    case failed(RpcError)
}

/// Error numbers of braft's command line service: Linux's, and those of braft itself.
public enum CliCode {
    /// EPERM: the replica asked does not lead, or stopped to.
    public static let notPermitted: Int32 = 1
    /// ENOENT: no such group or replica here.
    public static let notFound: Int32 = 2
    /// EIO: the state could not be saved.
    public static let failed: Int32 = 5
    /// EAGAIN: nobody is known to lead, now.
    public static let tryAgain: Int32 = 11
    /// EACCES: the service is switched off.
    public static let switchedOff: Int32 = 13
    /// EBUSY: something else has to end first.
    public static let busy: Int32 = 16
    /// EINVAL: no peer's name, or no members that a group could have.
    public static let invalid: Int32 = 22
    /// ETIMEDOUT: nobody knows what came of it.
    public static let timedOut: Int32 = 110
    /// EHOSTUNREACH: the successor does not answer.
    public static let unreachable: Int32 = 113
    /// ECATCHUP: a newcomer did not catch up.
    public static let notCaughtUp: Int32 = 10003
}

extension RaftHost {
    static let cliService = "braft.CliService"

    func registerCli(on server: RpcServer) {
        server.register(RaftHost.cliService) { [self] method, request in
            do throws(RpcError) {
                switch method {
                case "add_peer": try addPeer(request)
                case "remove_peer": try removePeer(request)
                case "change_peers": try changePeers(request)
                case "reset_peer": try resetPeer(request)
                case "snapshot": try snapshot(request)
                case "get_leader": try getLeader(request)
                case "transfer_leader": try transferLeader(request)
                default: return false
                }
            } catch {
                request.responder.fail(error.code, error.text)
            }
            return true
        }
    }

    private static let malformedRequest = RpcError(code: RpcCode.badRequest, text: "the request does not parse")
    private static let notLeader = RpcError(code: CliCode.notPermitted, text: "Not leader")

    // MARK: whom a request means

    /// This node's replica of `group`; any name but the empty one must be its own.
    private func replica(of group: String, named name: String) throws(RpcError) -> Replica {
        let peer = name.isEmpty ? nil : try peerID(name)
        guard let replica = byGroup[group], peer == nil || replica.id == peer else {
            throw RpcError(code: CliCode.notFound, text: "there is no such replica here")
        }
        return replica
    }

    private func orderedReplica(of group: String, named name: String) throws(RpcError) -> Replica {
        let replica = try replica(of: group, named: name)
        guard settings.answersCli else {
            throw RpcError(code: CliCode.switchedOff, text: "CliService is switched off on this node (--no-cli)")
        }
        return replica
    }

    private func peerID(_ name: String) throws(RpcError) -> PeerID {
        // braft knows no learners
        guard let peer = PeerID(name), peer.role != .learner else {
            throw RpcError(code: CliCode.invalid, text: "a peer is not of the form ip:port:idx[:role]")
        }
        return peer
    }

    private func peerIDs(_ names: [String]) throws(RpcError) -> [PeerID] {
        var peers: [PeerID] = []
        for name in names { peers.append(try peerID(name)) }
        guard !peers.isEmpty else { throw RpcError(code: CliCode.invalid, text: "no member is named") }
        return peers
    }

    /// What `read` finds in the request, which is set up by protobuf-c's `…__init`.
    private func read<M, R>(
        _ initialize: (UnsafeMutablePointer<M>?) -> Void, _ request: RpcRequest, _ read: (M) -> R
    ) throws(RpcError) -> R {
        let result = wire.arena.scope { arena in arena.unpack(initialize, request.body).map { read($0.pointee) } }
        guard let result else { throw RaftHost.malformedRequest }
        return result
    }

    // MARK: members

    private func addPeer(_ request: RpcRequest) throws(RpcError) {
        let (group, leader, peer) = try read(braft__add_peer_request__init, request) {
            (String(field: $0.group_id), String(field: $0.leader_id), String(field: $0.peer_id))
        }
        try change(group, leader, .add(try peerID(peer)), request)
    }

    private func removePeer(_ request: RpcRequest) throws(RpcError) {
        let (group, leader, peer) = try read(braft__remove_peer_request__init, request) {
            (String(field: $0.group_id), String(field: $0.leader_id), String(field: $0.peer_id))
        }
        try change(group, leader, .remove(try peerID(peer)), request)
    }

    private func changePeers(_ request: RpcRequest) throws(RpcError) {
        let (group, leader, peers) = try read(braft__change_peers_request__init, request) {
            (String(field: $0.group_id), String(field: $0.leader_id), texts($0.new_peers, $0.n_new_peers))
        }
        try change(group, leader, .replace(try peerIDs(peers)), request)
    }

    private func change(
        _ group: String, _ leader: String, _ order: MemberOrder, _ request: RpcRequest
    ) throws(RpcError) {
        let replica = try orderedReplica(of: group, named: leader)
        guard replica.raft.acceptsProposals else { throw RaftHost.notLeader }
        carryOut(order, replica) { [self] answer in
            switch answer {
            case .failed(let error): request.responder.fail(error.code, error.text)
            case .done(let before, let after):
                wire.arena.scope { arena in
                    // the three answers are the same on the wire
                    let reply = arena.make(braft__change_peers_response__init)
                    reply.pointee.n_old_peers = before.count
                    reply.pointee.old_peers = arena.strings(before.map(\.description))
                    reply.pointee.n_new_peers = after.count
                    reply.pointee.new_peers = arena.strings(after.map(\.description))
                    request.responder.reply(reply)
                }
            }
        }
    }

    private func resetPeer(_ request: RpcRequest) throws(RpcError) {
        let (group, peer, peers) = try read(braft__reset_peer_request__init, request) {
            (String(field: $0.group_id), String(field: $0.peer_id), texts($0.new_peers, $0.n_new_peers))
        }
        let target = try peerIDs(peers)
        let replica = try orderedReplica(of: group, named: peer)
        guard !replica.raft.isChangingMembership else {
            throw RpcError(code: CliCode.busy, text: "the members are being changed")
        }
        carryOut(.reset(target), replica) { [self] answer in
            switch answer {
            case .failed(let error): request.responder.fail(error.code, error.text)
            case .done:
                wire.arena.scope { arena in request.responder.reply(arena.make(braft__reset_peer_response__init)) }
            }
        }
    }

    private func carryOut(_ order: MemberOrder, _ replica: Replica, _ done: @escaping (MemberAnswer) -> Void) {
        if memberAuthority?(replica.group, order, done) == true { return }
        let before = replica.raft.configuration.listed
        let target: Configuration
        switch order {
        case .add(let peer): target = Configuration(peers: before.contains(peer) ? before : before + [peer])
        case .remove(let peer): target = Configuration(peers: before.filter { $0 != peer })
        case .replace(let peers): target = Configuration(peers: peers)
        case .reset(let peers):
            let target = Configuration(peers: peers)
            if target == replica.raft.configuration { return done(.done(before: before, after: before)) }
            return resetMembership(of: replica.group, to: target) { outcome in
                done(MemberAnswer(outcome, before: before, after: target.listed))
            }
        }
        changeMembership(of: replica.group, to: target) { outcome in
            done(MemberAnswer(outcome, before: before, after: target.listed))
        }
    }

    // MARK: the rest

    private func snapshot(_ request: RpcRequest) throws(RpcError) {
        let (group, peer) = try read(braft__snapshot_request__init, request) {
            (String(field: $0.group_id), String(field: $0.peer_id))
        }
        _ = try orderedReplica(of: group, named: peer)
        save(group) { [self] outcome in
            switch outcome {
            case .failed(let code, let problem): request.responder.fail(code, problem)
            case .saved:
                wire.arena.scope { arena in request.responder.reply(arena.make(braft__snapshot_response__init)) }
            }
        }
    }

    /// Not switched off by anything: clients find their leaders by it.
    private func getLeader(_ request: RpcRequest) throws(RpcError) {
        let (group, peer) = try read(braft__get_leader_request__init, request) {
            (String(field: $0.group_id), String(field: $0.peer_id))
        }
        guard let leader = try replica(of: group, named: peer).raft.leader else {
            throw RpcError(code: CliCode.tryAgain, text: "Unknown leader")
        }
        wire.arena.scope { arena in
            let reply = arena.make(braft__get_leader_response__init)
            reply.pointee.leader_id = arena.string(leader.description)
            request.responder.reply(reply)
        }
    }

    private func transferLeader(_ request: RpcRequest) throws(RpcError) {
        let (group, leader, name) = try read(braft__transfer_leader_request__init, request) {
            (String(field: $0.group_id), String(field: $0.leader_id), String(field: $0.peer_id))
        }
        let named = name.isEmpty ? nil : try peerID(name)
        let replica = try orderedReplica(of: group, named: leader)
        let raft = replica.raft
        guard raft.isLeader else { throw RaftHost.notLeader }
        guard !raft.isTransferring, !raft.isChangingMembership, raft.hasCommittedConfiguration else {
            throw RpcError(code: CliCode.busy, text: "a hand-over or a change of members is under way")
        }
        // braft's name for anybody
        let target = named.flatMap { $0.address.ip == 0 ? nil : $0 }
        if target != raft.id {
            let fit = raft.configuration.voters.filter { $0 != raft.id && !raft.configuration.isWitness($0) }
            if let target {
                guard fit.contains(target) else {
                    throw RpcError(code: CliCode.invalid, text: "\(target) is no member that could lead")
                }
                guard liveness.isReachable(target.address) else {
                    throw RpcError(code: CliCode.unreachable, text: "\(target) does not answer")
                }
            } else if !fit.contains(where: { liveness.isReachable($0.address) }) {
                throw RpcError(code: -1, text: "no member that could lead answers")
            }
            transferLeadership(of: group, to: target)
        }
        wire.arena.scope { arena in request.responder.reply(arena.make(braft__transfer_leader_response__init)) }
    }
}

/// The elements of a repeated string field.
private func texts(_ elements: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>?, _ count: Int) -> [String] {
    (0..<count).map { String(field: elements?[$0]) }
}

extension MemberAnswer {
    /// What became of a change from `before` to `after`.
    fileprivate init(_ outcome: ChangeOutcome, before: [PeerID], after: [PeerID]) {
        switch outcome {
        case .done: self = .done(before: before, after: after)
        case .refused(.notLeader): self = .failed(RpcError(code: CliCode.notPermitted, text: "Not leader"))
        case .unknown: self = .failed(RpcError(code: CliCode.notPermitted, text: "leader stepped down"))
        case .refused(.busy):
            self = .failed(RpcError(code: CliCode.busy, text: "another change of members or a hand-over is under way"))
        case .refused(.noVoters):
            self = .failed(RpcError(code: CliCode.invalid, text: "no member that votes and holds the state is left"))
        case .refused(.roleChange):
            self = .failed(RpcError(code: CliCode.invalid, text: "a member changes its role under another idx only"))
        case .refused(.foreignWithLearners):
            let text = "a group with a member that runs another program cannot have learners"
            self = .failed(RpcError(code: CliCode.invalid, text: text))
        case .refused(.notApplicable):
            let text = "a reset keeps this replica as a voter, and is for a group that has lost its majority"
            self = .failed(RpcError(code: CliCode.notPermitted, text: text))
        case .notCaughtUp(let peer):
            self = .failed(RpcError(code: CliCode.notCaughtUp, text: "\(peer) did not catch up"))
        }
    }
}
