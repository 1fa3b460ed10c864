import CMessages
import RaftCore
import RaftStorage
import Transport
import WireMessages

/// A snapshot for one peer. Kept for a while after a failure: the peer goes on where it was.
///
/// Lane-confined; completions that run on the lane may carry it past a worker.
final class OutgoingSnapshot: @unchecked Sendable {
    enum Phase {
        /// Nobody has asked for its files.
        case frozen(any FrozenState)
        /// They are being written; the answers are owed then.
        case writing([RpcResponder])
        /// They are there.
        case ready(StoredFolder, [StoredFolder.File])
    }

    /// Random: a number that another run of this node gave must not mean another snapshot.
    let id: UInt64
    unowned let replica: Replica
    let peer: PeerID
    let meta: SnapshotMeta
    var phase: Phase
    /// The number its files are written for, once somebody asked.
    var store: UInt64?
    /// Offers of it that were not answered yet: more than one if it was offered once more, in another term perhaps.
    var offersUnderWay = 0
    var isDropped = false
    /// Of its files, in the order in which they are asked for.
    var sentBytes = 0
    var usedAt: Instant
    /// Set if the peer is a braft, which reads files and not our pieces.
    let exhibit: BraftExhibit?

    init(id: UInt64, replica: Replica, peer: PeerID, frozen: any FrozenState, exhibit: BraftExhibit?, now: Instant) {
        self.id = id
        self.exhibit = exhibit
        self.replica = replica
        self.peer = peer
        meta = frozen.meta
        phase = .frozen(frozen)
        usedAt = now
    }

    var folderName: String { "out-\(id)" }
    var isFrozen: Bool { if case .frozen = phase { true } else { false } }
    var isOffered: Bool { offersUnderWay > 0 }
}

/// What a witness gets for a state: where the log begins, and no files.
private final class NoState: FrozenState, SnapshotWriter {
    let meta: SnapshotMeta
    init(_ meta: SnapshotMeta) { self.meta = meta }

    func writer(
        to folder: any SnapshotFolder, as number: UInt64
    ) throws(StateMachineError) -> any SnapshotWriter { self }

    func write(about bytes: Int) throws(StateMachineError) -> SnapshotStep { SnapshotStep(bytes: 0, isLast: true) }
}

/// What a host sends of snapshots.
struct SnapshotSending {
    var random: SeededRandom
    /// All of them; looked up by id only.
    var snapshots: [UInt64: OutgoingSnapshot] = [:]
    /// In the order they were made.
    var order: [OutgoingSnapshot] = []
    /// Answers that wait for the budget, by the time they are due.
    var reads = FIFO<SnapshotRead>()
    /// Steps of snapshots that are being written, by the time they are due.
    var exports = FIFO<SnapshotExportStep>()
    /// What brafts read by; looked up by number only.
    var readers: [Int64: BraftReader] = [:]
    /// Peers that wanted to be left alone for a while, by the time that is over.
    var pauses = FIFO<(due: Instant, peer: PeerID, replica: Replica)>()
}

/// A part of a snapshot that was asked for.
struct SnapshotRead {
    var due: Instant
    var snapshot: OutgoingSnapshot
    var file: String
    var offset: Int
    var count: Int
    var responder: RpcResponder
    /// Set if a braft asked.
    var reader: BraftReader?
}

extension RaftHost {
    /// How much of the snapshots of `group` that are on their way to other members has been sent, and what is left; nil
    /// if there are none.
    public func snapshotProgress(of group: String) -> (done: Int, left: Int)? {
        var progress: (done: Int, left: Int)?
        for snapshot in sending.order where snapshot.replica.group == group && !snapshot.isDropped {
            guard case .ready(_, let files) = snapshot.phase else { continue }
            let size = files.reduce(0) { $0 + $1.byteCount }
            // a part that was asked for again counts twice
            let done = min(snapshot.sentBytes, size)
            progress = ((progress?.done ?? 0) + done, (progress?.left ?? 0) + size - done)
        }
        return progress
    }

    static let snapshotService = "flotilla.SnapshotService"

    // MARK: offering

    /// The core wants `peer` to have a snapshot: one that was begun, if it will do, or a new one.
    func sendSnapshot(to peer: PeerID, of replica: Replica) {
        let isBraft = liveness.isForeign(peer.address)
        if replica.problem == nil, let kept = replica.outgoing.first(where: { $0.peer == peer }) {
            let isOfUse = kept.meta.last.index >= replica.raft.base.index && (kept.exhibit != nil) == isBraft
            // one that is offered already is the core's earlier wish, of another term perhaps
            if isOfUse, !kept.isDropped { return offer(kept) }
            drop(kept)
        }
        guard peer.role != .witness else {
            return isBraft ? offerNoFiles(to: peer, of: replica) : offerBase(to: peer, of: replica)
        }
        guard replica.problem == nil, let machine = replica.stateMachine as? any SnapshotStateMachine else {
            return inbox.append((replica, .snapshotSent(to: peer, installed: nil)))
        }
        // the worker may be busy for long: the picture it will make is offered to whoever asked again meanwhile
        guard !replica.freezing.contains(peer) else { return }
        replica.freezing.append(peer)
        let generation = replica.generation
        let result = Box<Result<any FrozenState, StateMachineError>?>(nil)
        workers.apply.submit {
            do throws(StateMachineError) { result.value = .success(try machine.freeze()) } catch {
                result.value = .failure(error)
            }
        } completion: { [self] in
            now = lane.clock.now
            replica.freezing.removeAll { $0 == peer }
            switch result.value {
            case .success(let frozen)?
            where replica.generation == generation && replica.problem == nil && replica.raft.isLeader
                && frozen.meta.last.index >= replica.raft.base.index:
                let snapshot = OutgoingSnapshot(
                    id: sending.random.next(), replica: replica, peer: peer, frozen: frozen,
                    exhibit: isBraft ? BraftExhibit() : nil, now: now)
                begin(snapshot)
            case .failure(let error)?:
                logger.log(
                    .warning, "no snapshot can be made", [("group", replica.group), ("problem", error.description)])
                fallthrough
            default:
                inbox.append((replica, .snapshotSent(to: peer, installed: nil)))
            }
            lane.requestTurn()
        }
    }

    private func begin(_ snapshot: OutgoingSnapshot) {
        sending.snapshots[snapshot.id] = snapshot
        sending.order.append(snapshot)
        snapshot.replica.outgoing.append(snapshot)
        offer(snapshot)
    }

    /// The state is another one now, or not to be trusted: nobody gets a picture of it.
    func dropOutgoing(of replica: Replica) {
        for snapshot in replica.outgoing { drop(snapshot) }
    }

    /// A witness has no state: it gets no more than where its log begins.
    private func offerBase(to peer: PeerID, of replica: Replica) {
        guard let membership = replica.memberships.first else { return }
        let meta = SnapshotMeta(last: replica.raft.base, configuration: membership.configuration)
        offer(meta, uri: "", to: peer, of: replica) { [self] result in
            if case .failed(let error) = result, error.code == RaftHost.superseded { isUnanswered(peer, replica) }
        }
    }

    /// To a witness that is a braft: it asks for the list of files all the same, and for none of them.
    private func offerNoFiles(to peer: PeerID, of replica: Replica) {
        guard let membership = replica.memberships.first else { return isUnanswered(peer, replica) }
        let meta = SnapshotMeta(last: replica.raft.base, configuration: membership.configuration)
        begin(
            OutgoingSnapshot(
                id: sending.random.next(), replica: replica, peer: peer, frozen: NoState(meta),
                exhibit: BraftExhibit(), now: now))
    }

    private func offer(_ snapshot: OutgoingSnapshot) {
        if let exhibit = snapshot.exhibit { return offer(snapshot, exhibit) }
        snapshot.usedAt = now
        let replica = snapshot.replica
        pin(replica, for: snapshot.peer, at: snapshot.meta.last.index, since: now)
        snapshot.offersUnderWay += 1
        let uri = "\(RaftWire.snapshotScheme)\(identity.address)/\(snapshot.id)"
        logger.log(
            .info, "snapshot offered",
            [
                ("group", replica.group), ("peer", snapshot.peer.description),
                ("index", snapshot.meta.last.index.description),
            ])
        offer(snapshot.meta, uri: uri, to: snapshot.peer, of: replica) { [self] result in
            snapshot.offersUnderWay -= 1
            snapshot.usedAt = now
            switch result {
            // the peer has it, or wants none
            case .reply: drop(snapshot)
            // the peer has begun with it, perhaps without having asked for its files yet
            case .failed(let error) where error.code == RaftHost.superseded:
                // what came twice has taken its own place, and nobody hears the other answer
                if snapshot.offersUnderWay == 0 { isUnanswered(snapshot.peer, replica) }
            // what it has of it is kept, and so is what it does not have
            case .failed(let error) where RaftHost.isInterruption(error.code) && !snapshot.isFrozen: break
            case .failed(let error) where error.code == RaftHost.busy && !snapshot.isFrozen: break
            case .failed: drop(snapshot)
            }
        }
    }

    /// Nothing will be heard of what was offered: the core tries again after a while.
    func isUnanswered(_ peer: PeerID, _ replica: Replica) {
        inbox.append((replica, .snapshotSent(to: peer, installed: nil)))
        lane.requestTurn()
    }

    static let busy: Int32 = 16
    /// "Try again": what is there of a snapshot is kept.
    static let again: Int32 = 11
    /// "Interrupted system call": the same was offered once more, and that is what will be answered.
    static let superseded: Int32 = 4
    static let unknownSnapshot: Int32 = 2

    /// Whether an error says nothing of what was asked for, only of the way there.
    static func isInterruption(_ code: Int32) -> Bool {
        [RpcCode.failedSocket, RpcCode.hostDown, RpcCode.timedOut, RpcCode.overcrowded, again, superseded]
            .contains(code)
    }

    /// Errors in `silent` are for `done` alone: the core goes on waiting.
    func offer(
        _ meta: SnapshotMeta, uri: String, to peer: PeerID, of replica: Replica, silent: [Int32] = [superseded],
        _ done: @escaping (RpcResult) -> Void
    ) {
        guard let link = linkByNode[peer.address] else {
            done(.failed(RpcError(code: RpcCode.hostDown, text: "no member any more")))
            return inbox.append((replica, .snapshotSent(to: peer, installed: nil)))
        }
        let request = SnapshotRequest(term: replica.raft.term, meta: meta)
        wire.arena.scope { arena in
            let body = wire.snapshotRequest(
                request, uri: uri, group: replica.group, from: replica.id, to: peer, arena: arena)
            link.data.call(
                service: RaftHost.raftService, method: "install_snapshot", message: body, attachment: [], deadline: nil
            ) { [self] result in
                now = lane.clock.now
                var installed: LogIndex?
                switch result {
                // a later offer will be answered instead, and ends the core's wish
                case .failed(let error) where silent.contains(error.code): return done(result)
                case .reply(let reply):
                    if wire.decodeSnapshotReply(reply.body)?.success == true { installed = meta.last.index }
                    replica.snapshotRefusals.removeAll { $0.peer == peer }
                case .failed(let error):
                    noteRefusal(error, by: peer, of: replica)
                    logger.log(
                        .info, "snapshot not installed",
                        [("group", replica.group), ("peer", peer.description), ("problem", error.text)])
                }
                done(result)
                inbox.append((replica, .snapshotSent(to: peer, installed: installed)))
                lane.requestTurn()
            }
        }
    }

    private func noteRefusal(_ error: RpcError, by peer: PeerID, of replica: Replica) {
        guard liveness.isForeign(peer.address), !RaftHost.isInterruption(error.code), error.code != RaftHost.busy
        else { return }
        let raft = replica.raft
        replica.snapshotRefusals.removeAll { $0.peer == peer || raft.progress(of: $0.peer) == nil }
        replica.snapshotRefusals.append((peer, error.text))
    }

    /// The brafts that the replica of `group`, which leads, cannot bring back, for they lack what its log has no more and
    /// did not take the snapshot offered last, with their words. They are offered one again and again.
    public func snapshotRefusals(of group: String) -> [(peer: PeerID, text: String)] {
        guard let replica = byGroup[group], replica.raft.isLeader else { return [] }
        return replica.snapshotRefusals.filter { refusal in
            replica.raft.progress(of: refusal.peer).map { $0.match < replica.raft.base.index } ?? false
        }
    }

    func pin(_ replica: Replica, for peer: PeerID, at position: LogIndex, since progressAt: Instant) {
        replica.pins.removeAll { $0.peer == peer }
        replica.pins.append(SnapshotPin(peer: peer, position: position, progressAt: progressAt))
    }

    func drop(_ snapshot: OutgoingSnapshot) {
        guard !snapshot.isDropped else { return }
        snapshot.isDropped = true
        snapshot.replica.outgoing.removeAll { $0 === snapshot }
        sending.snapshots[snapshot.id] = nil
        sending.order.removeAll { $0 === snapshot }
        if case .writing(let waiting) = snapshot.phase {
            for responder in waiting { responder.fail(RaftHost.unknownSnapshot, "the snapshot is not wanted any more") }
        }
        if let exhibit = snapshot.exhibit { close(exhibit) }
        guard snapshot.store != nil else { return }
        snapshot.phase = .writing([])
        removeFolder(snapshot.folderName)
    }

    /// Removes a snapshot's folder behind whatever is done with it.
    func removeFolder(_ name: String) {
        let store = snapshots
        let logger = self.logger
        // what is read is read before; then what writes
        workers.reader.submit {
        } completion: { [self] in
            workers.maintenance.submit {
                do throws(StateMachineError) { try store.remove(name) } catch {
                    logger.log(.warning, "a folder stays", [("folder", name), ("problem", error.description)])
                }
            } completion: {
            }
        }
    }

    /// Called once a turn; returns when it is to be called next at the latest.
    func pursueSending() -> Instant? {
        while let read = sending.reads.first, read.due <= now {
            _ = sending.reads.popFirst()
            answer(read)
        }
        while let pause = sending.pauses.first, pause.due <= now {
            _ = sending.pauses.popFirst()
            isUnanswered(pause.peer, pause.replica)
        }
        let dues = [sending.reads.first?.due, sending.pauses.first?.due, pursueExports()]
        var next = dues.lazy.compactMap { $0 }.min()
        for snapshot in sending.order {
            if let readAt = snapshot.exhibit?.readAt {
                let end = readAt + settings.pinPatience
                guard end > now else {
                    giveUpUnread(snapshot)
                    continue
                }
                next = min(next ?? end, end)
            }
            guard !snapshot.isOffered else { continue }
            let end = snapshot.usedAt + settings.snapshotPatience
            if end <= now { drop(snapshot) } else { next = min(next ?? end, end) }
        }
        return next
    }

    /// Whether the files of another one may be written; brafts have places of their own, for their answers may be long in
    /// coming.
    func hasRoomToSend(toBraft isForeign: Bool) -> Bool {
        sending.order.count(where: { !$0.isFrozen && ($0.exhibit != nil) == isForeign })
            < (isForeign ? settings.foreignSnapshotsSent : settings.snapshotsSent)
    }

    // MARK: serving

    func registerSnapshots(on server: RpcServer) {
        server.register(RaftHost.snapshotService) { [self] method, request in
            do throws(RaftWire.WireError) {
                switch method {
                case "open": try openSnapshot(request)
                case "read": try readSnapshot(request)
                case "close": try closeSnapshot(request)
                default: return false
                }
            } catch {
                request.responder.fail(error.code, error.text)
            }
            lane.requestTurn()
            return true
        }
        server.register(RaftHost.fileService) { [self] method, request in
            guard method == "get_file" else { return false }
            do throws(RaftWire.WireError) { try getFile(request) } catch {
                request.responder.fail(error.code, error.text)
            }
            lane.requestTurn()
            return true
        }
    }

    /// The snapshot of that number, for whoever it was made.
    private func outgoing(_ id: UInt64, _ request: RpcRequest) throws(RaftWire.WireError) -> OutgoingSnapshot {
        guard let peer = request.connection.context as? KnownPeer, peer.isPresent else { throw RaftHost.stranger }
        guard let snapshot = sending.snapshots[id], snapshot.peer.address == peer.address else {
            throw RaftWire.WireError(code: RaftHost.unknownSnapshot, text: "no such snapshot")
        }
        noteUse(of: snapshot)
        return snapshot
    }

    /// The peer gets on with it: the log is kept for it a while longer.
    func noteUse(of snapshot: OutgoingSnapshot) {
        now = lane.clock.now
        guard !snapshot.isDropped else { return }
        snapshot.usedAt = now
        for position in snapshot.replica.pins.indices where snapshot.replica.pins[position].peer == snapshot.peer {
            snapshot.replica.pins[position].progressAt = now
        }
    }

    private func openSnapshot(_ request: RpcRequest) throws(RaftWire.WireError) {
        guard let (id, store) = wire.decodeSnapshotOpen(request.body) else { throw RaftHost.malformed }
        let snapshot = try outgoing(id, request)
        switch snapshot.phase {
        case .frozen(let frozen):
            guard hasRoomToSend(toBraft: false) else {
                throw RaftWire.WireError(code: RaftHost.busy, text: "too many snapshots are being sent")
            }
            snapshot.store = store
            snapshot.phase = .writing([request.responder])
            write(frozen, of: snapshot, as: store)
        case _ where snapshot.store != store:
            // whoever asked first has started anew and lost what it had
            drop(snapshot)
            throw RaftWire.WireError(code: RaftHost.unknownSnapshot, text: "written for another number")
        case .writing(let waiting): snapshot.phase = .writing(waiting + [request.responder])
        case .ready(_, let files): answerOpen(request.responder, files)
        }
    }

    func answerOpen(_ responder: RpcResponder, _ files: [StoredFolder.File]) {
        wire.arena.scope { arena in responder.reply(wire.snapshotFiles(files, arena: arena)) }
    }

    private func readSnapshot(_ request: RpcRequest) throws(RaftWire.WireError) {
        guard let asked = wire.decodeSnapshotRead(request.body) else { throw RaftHost.malformed }
        let snapshot = try outgoing(asked.id, request)
        guard case .ready(_, let files) = snapshot.phase,
            let file = StoredFolder.file(asked.file, of: files), asked.offset < UInt64(file.byteCount),
            asked.count > 0
        else { throw RaftWire.WireError(code: 22, text: "the snapshot has no such bytes") }
        let count = min(Int(asked.count), settings.snapshotChunkBytes, file.byteCount - Int(asked.offset))
        snapshot.sentBytes += count
        sending.reads.append(
            SnapshotRead(
                due: snapshotBudget.take(count, now: now), snapshot: snapshot, file: file.name,
                offset: Int(asked.offset), count: count, responder: request.responder, reader: nil))
    }

    private func answer(_ read: SnapshotRead) {
        guard case .ready(let folder, _) = read.snapshot.phase, !read.snapshot.isDropped else {
            read.reader?.isReading = false
            return read.responder.fail(RaftHost.unknownSnapshot, "the snapshot is not wanted any more")
        }
        let result = Box<Result<(Bytes, UInt32), StateMachineError>?>(nil)
        workers.reader.submit {
            do throws(StateMachineError) {
                let bytes = try folder.read(read.file, at: read.offset, count: read.count)
                result.value = .success((bytes, CRC32C.checksum(bytes)))
            } catch {
                result.value = .failure(error)
            }
        } completion: { [self] in
            now = lane.clock.now
            read.snapshot.usedAt = now
            read.reader?.isReading = false
            switch result.value {
            case .success((let bytes, _))? where read.reader != nil && bytes.count == read.count:
                answerFile(read, bytes)
            case .success((let bytes, let checksum))? where !bytes.isEmpty:
                wire.arena.scope { arena in
                    let reply = arena.make(flotilla__snapshot_read_reply__init)
                    reply.pointee.crc32c = checksum
                    read.responder.reply(reply, attachment: [bytes])
                }
            case .failure(let error)?: read.responder.fail(5, error.description)
            default: read.responder.fail(5, "the file is shorter than it was")
            }
        }
    }

    private func closeSnapshot(_ request: RpcRequest) throws(RaftWire.WireError) {
        guard let asked = wire.decodeSnapshotClose(request.body) else { throw RaftHost.malformed }
        // it may have gone by itself
        if let snapshot = sending.snapshots[asked], !snapshot.isDropped {
            drop(try outgoing(asked, request))
        }
        wire.arena.scope { arena in request.responder.reply(arena.make(flotilla__snapshot_close_reply__init)) }
    }
}
