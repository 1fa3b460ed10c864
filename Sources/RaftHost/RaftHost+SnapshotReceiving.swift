import CMessages
import RaftCore
import RaftStorage
import Transport
import WireMessages

/// A snapshot on its way here.
///
/// Lane-confined; completions that run on the lane may carry it past a worker.
final class IncomingSnapshot: @unchecked Sendable {
    enum Phase {
        /// Its number is becoming durable, its folder is being made, or its files are being written over there.
        case preparing
        /// Its files come, piece by piece.
        case fetching
        /// The way to the sender broke: it goes on when the sender offers it again.
        case interrupted
        /// Everything is here and is being checked, installed and made durable: nothing stops it any more.
        case installing
        /// It has ended, in whatever way.
        case over
    }

    /// The sender's number of it.
    let id: UInt64
    unowned let replica: Replica
    let sender: NodeAddress
    let meta: SnapshotMeta
    /// The fresh number of the state in the store.
    let store: UInt64
    /// Owed to the leader, which may be another than the sender, when it is installed.
    var responder: RpcResponder?
    var phase = Phase.preparing
    var folder: StoredFolder?
    var files: [StoredFolder.File] = []
    var pieces = SnapshotPieces()
    /// Pieces that came with a wrong checksum.
    var badPieces = 0
    var usedAt: Instant
    /// Set if it comes from a braft, as files and not in our pieces.
    let download: BraftDownload?

    init(
        id: UInt64, replica: Replica, sender: NodeAddress, meta: SnapshotMeta, store: UInt64, now: Instant,
        download: BraftDownload? = nil
    ) {
        self.id = id
        self.download = download
        self.replica = replica
        self.sender = sender
        self.meta = meta
        self.store = store
        usedAt = now
    }

    var folderName: String { "in-\(store)" }
    /// Whether it takes one of the places that are there for brafts and guests.
    var isForeign: Bool { download != nil || replica.isGuest }
    var receivedBytes: Int { download?.receivedBytes ?? pieces.received }
    var isActive: Bool { if case .interrupted = phase { false } else { true } }
    var isBeingInstalled: Bool { if case .installing = phase { true } else { false } }
}

/// What a host receives of snapshots.
struct SnapshotReceiving {
    /// All of them, in the order they began.
    var order: [IncomingSnapshot] = []
    /// Connections of their own: nothing large delays an append.
    var channels: [NodeAddress: RpcChannel] = [:]
    var channelOrder: [NodeAddress] = []
    /// Pieces asked for, ever, of our nodes or of brafts.
    var piecesAsked = 0
    /// Steps of installations, by the time they are due.
    var installs = FIFO<SnapshotInstallation>()
}

/// A step of an installation that waits for the budget.
struct SnapshotInstallation {
    var due: Instant
    var snapshot: IncomingSnapshot
    var installer: any SnapshotInstaller
}

extension RaftHost {
    /// Pieces of one snapshot asked for at a time.
    private static let piecesAtOnce = 4
    /// Pieces with a wrong checksum after which a snapshot is given up.
    private static let badPiecesMax = 16
    private static let pieceTimeout = Interval.milliseconds(30_000)
    private static let openTimeout = Interval.milliseconds(10_000)
    private static let pauseAfterFailure = Interval.milliseconds(5000)

    // MARK: the offer

    func installSnapshot(_ request: RpcRequest) throws(RaftWire.WireError) {
        let (addressing, message, uri) = try wire.decodeSnapshotRequest(request.body)
        let (replica, from) = try addressedByAnybody(addressing, request, badSender: 1003)
        // the log may hold what is offered, and the state not
        let needsState = replica.needsState || wantsLaterState(message.meta, replica)
        step(
            replica, .received(.snapshotRequest(message), from: from, isForeign: run(of: request) == 0),
            StepContext(responder: needsState ? nil : request.responder))
        lane.requestTurn()
        if needsState, let refusal = effects.reply {
            return request.responder.reply(body: wire.packReply(refusal))
        }
        let isHeld = needsState && effects.acknowledgement != nil && message.meta.last.index >= replica.raft.base.index
        // a refusal, or that it is here already, has been said
        guard let meta = effects.snapshotWanted ?? (isHeld ? message.meta : nil) else {
            if needsState { request.responder.fail(RaftHost.again, "not of any use") }
            return
        }
        guard replica.id.role != .witness else {
            return step(replica, .snapshotReceived(meta), StepContext(responder: request.responder))
        }
        let source = RaftWire.braftSource(uri)
        guard takesSnapshots(replica), source == nil || takesBraftFiles(replica),
            replica.stateMachine is any SnapshotStateMachine
        else {
            noteUnusable(meta, of: replica, from: from)
            throw RaftWire.WireError(code: 22, text: "Not support snapshot")
        }
        if let source {
            return try want(meta, from: from.address, source, of: replica, request.responder)
        }
        guard let id = RaftWire.snapshotID(uri, from: from.address) else {
            throw RaftWire.WireError(code: 22, text: "the uri \(uri) cannot be used")
        }
        try want(meta, id, of: replica, from: from.address, request.responder)
    }

    /// Whether a state from another node can take the place of the replica's.
    func takesSnapshots(_ replica: Replica) -> Bool {
        store?.takes(replica.group, kind: replica.record.kind) ?? false
    }

    /// Whether the files of a braft can.
    private func takesBraftFiles(_ replica: Replica) -> Bool {
        store?.takesBraftFiles(replica.group, kind: replica.record.kind) ?? false
    }

    /// The entries that the replica lacks are gone at the leader, which offers a state that cannot be taken.
    private func noteUnusable(_ meta: SnapshotMeta, of replica: Replica, from leader: PeerID) {
        guard replica.unusable == nil else { return replica.unusable = meta.last.index }
        replica.unusable = meta.last.index
        logger.log(
            .error, "the log of the leader begins later than this one ends, and no snapshot can be taken",
            [
                ("group", replica.group), ("from", leader.description), ("index", meta.last.index.description),
                ("last", replica.raft.lastIndex.description),
            ])
    }

    private func want(
        _ meta: SnapshotMeta, _ id: UInt64, of replica: Replica, from sender: NodeAddress, _ responder: RpcResponder
    ) throws(RaftWire.WireError) {
        now = lane.clock.now
        if let known = replica.incoming {
            if known.id == id, known.download == nil, known.sender == sender, known.meta == meta {
                known.responder?.fail(RaftHost.superseded, "offered again")
                known.responder = responder
                known.usedAt = now
                if known.isActive { return }
                guard hasRoomForAnother(isForeign: known.isForeign) else {
                    known.responder = nil
                    throw RaftHost.tooMany
                }
                return proceed(with: known)
            }
            // one that gets on is not given up for one that is newer: it might never end
            guard !known.isActive else { throw RaftHost.tooMany }
            abandon(known, nil)
        }
        // whoever likes can offer a guest something, and be slow with it
        guard hasRoomForAnother(isForeign: replica.isGuest), replica.nextIncoming <= now, stopping == nil else {
            throw RaftHost.tooMany
        }
        let snapshot = IncomingSnapshot(
            id: id, replica: replica, sender: sender, meta: meta, store: nodeState.takeNumber(), now: now)
        begin(snapshot, responder)
    }

    func begin(_ snapshot: IncomingSnapshot, _ responder: RpcResponder) {
        let (replica, meta, sender) = (snapshot.replica, snapshot.meta, snapshot.sender)
        snapshot.responder = responder
        replica.incoming = snapshot
        receiving.order.append(snapshot)
        logger.log(
            .info, "snapshot wanted",
            [("group", replica.group), ("index", meta.last.index.description), ("from", sender.description)])
        // the number is durable before it is used, for it must never mean two states
        writeNodeState { [self] in prepare(snapshot) }
    }

    static let tooMany = RaftWire.WireError(code: busy, text: "not now")

    /// Brafts and guests have places of their own: they never keep a group's replica from being brought back.
    func hasRoomForAnother(isForeign: Bool) -> Bool {
        receiving.order.count(where: { $0.isActive && $0.isForeign == isForeign })
            < (isForeign ? settings.foreignSnapshotsReceived : settings.snapshotsReceived)
    }

    private func prepare(_ snapshot: IncomingSnapshot) {
        guard case .preparing = snapshot.phase, !isOver else { return }
        let store = snapshots
        let name = snapshot.folderName
        let result = Box<Result<StoredFolder, StateMachineError>?>(nil)
        workers.reader.submit {
            do throws(StateMachineError) { result.value = .success(try store.makeFolder(name)) } catch {
                result.value = .failure(error)
            }
        } completion: { [self] in
            guard case .preparing = snapshot.phase, !isOver else { return }
            now = lane.clock.now
            switch result.value {
            case .success(let folder)?:
                snapshot.folder = folder
                if snapshot.download != nil { proceed(with: snapshot) } else { askForFiles(of: snapshot) }
            case .failure(let error)?: abandon(snapshot, RpcError(code: 5, text: error.description))
            case nil: preconditionFailure("the worker has been there")
            }
        }
    }

    // MARK: fetching

    private func channel(to node: NodeAddress) -> RpcChannel {
        if let channel = receiving.channels[node] { return channel }
        let channel = makeChannel(to: node)
        receiving.channels[node] = channel
        receiving.channelOrder.append(node)
        return channel
    }

    /// Goes on where it was interrupted.
    func proceed(with snapshot: IncomingSnapshot) {
        snapshot.usedAt = now
        if let download = snapshot.download, snapshot.folder != nil {
            snapshot.phase = .fetching
            return askForList(of: snapshot, download)
        }
        if snapshot.files.isEmpty {
            snapshot.phase = .preparing
            snapshot.folder == nil ? prepare(snapshot) : askForFiles(of: snapshot)
        } else {
            snapshot.phase = .fetching
            fetch(snapshot)
        }
    }

    private func askForFiles(of snapshot: IncomingSnapshot) {
        wire.arena.scope { arena in
            let message = arena.make(flotilla__snapshot_open_request__init)
            message.pointee.id = snapshot.id
            message.pointee.store = snapshot.store
            channel(to: snapshot.sender).call(
                service: RaftHost.snapshotService, method: "open", message: message,
                deadline: now + RaftHost.openTimeout
            ) { [self] result in
                guard case .preparing = snapshot.phase, !isOver else { return }
                now = lane.clock.now
                lane.requestTurn()
                switch result {
                // it is still being written
                case .failed(let error) where error.code == RpcCode.timedOut: askForFiles(of: snapshot)
                case .failed(let error): interrupt(snapshot, error)
                case .reply(let reply):
                    guard let files = wire.decodeSnapshotFiles(reply.body) else {
                        return abandon(snapshot, RpcError(code: RpcCode.badResponse, text: "a malformed answer"))
                    }
                    begin(snapshot, files)
                }
            }
        }
    }

    private func begin(_ snapshot: IncomingSnapshot, _ files: [StoredFolder.File]) {
        snapshot.files = files
        snapshot.pieces = SnapshotPieces(of: files)
        snapshot.phase = .fetching
        fetch(snapshot)
    }

    private func fetch(_ snapshot: IncomingSnapshot) {
        while case .fetching = snapshot.phase, snapshot.pieces.underWay < RaftHost.piecesAtOnce,
            let piece = snapshot.pieces.next(atMost: settings.snapshotChunkBytes)
        {
            ask(for: piece, of: snapshot)
        }
        guard case .fetching = snapshot.phase, snapshot.pieces.isComplete else { return }
        complete(snapshot)
    }

    private func ask(for piece: SnapshotPieces.Piece, of snapshot: IncomingSnapshot) {
        receiving.piecesAsked += 1
        wire.arena.scope { arena in
            let message = arena.make(flotilla__snapshot_read_request__init)
            message.pointee.id = snapshot.id
            message.pointee.file = arena.string(snapshot.files[piece.file].name)
            message.pointee.offset = UInt64(piece.offset)
            message.pointee.count = UInt32(piece.count)
            channel(to: snapshot.sender).call(
                service: RaftHost.snapshotService, method: "read", message: message,
                deadline: now + RaftHost.pieceTimeout
            ) { [self] result in
                guard !isOver else { return }
                now = lane.clock.now
                lane.requestTurn()
                switch result {
                case .failed(let error):
                    snapshot.pieces.lose(piece)
                    interrupt(snapshot, error)
                case .reply(let reply): take(reply, piece, of: snapshot)
                }
            }
        }
    }

    private func take(_ reply: RpcReply, _ piece: SnapshotPieces.Piece, of snapshot: IncomingSnapshot) {
        let bytes = reply.attachment
        guard let folder = snapshot.folder, wire.decodeSnapshotPiece(reply.body) == CRC32C.checksum(bytes),
            !bytes.isEmpty, bytes.count <= piece.count
        else {
            snapshot.pieces.lose(piece)
            snapshot.badPieces += 1
            if snapshot.badPieces > RaftHost.badPiecesMax {
                return abandon(snapshot, RpcError(code: 5, text: "too many pieces came damaged"))
            }
            return fetch(snapshot)
        }
        let name = snapshot.files[piece.file].name
        let failure = Box<StateMachineError?>(nil)
        workers.reader.submit {
            do throws(StateMachineError) { try folder.write(bytes, to: name, at: piece.offset) } catch {
                failure.value = error
            }
        } completion: { [self] in
            now = lane.clock.now
            if let failure = failure.value {
                return abandon(snapshot, RpcError(code: 5, text: failure.description))
            }
            snapshot.usedAt = now
            snapshot.pieces.take(bytes.count, of: piece)
            fetch(snapshot)
        }
    }

    /// The way to the sender broke, or the sender knows of nothing any more.
    func interrupt(_ snapshot: IncomingSnapshot, _ error: RpcError) {
        switch snapshot.phase {
        case .installing, .interrupted, .over: return
        case .preparing, .fetching: break
        }
        // a braft's reader is gone with the offer, and comes back with the next one
        let isLost = snapshot.download != nil && error.code == RaftHost.unknownSnapshot
        guard RaftHost.isInterruption(error.code) || isLost else { return abandon(snapshot, error) }
        snapshot.phase = .interrupted
        snapshot.download?.rate.pause(now)
        snapshot.usedAt = now
        let code = snapshot.download == nil ? RaftHost.again : error.code
        snapshot.responder?.fail(code, "interrupted: \(error.text)")
        snapshot.responder = nil
        logger.log(
            .info, "snapshot interrupted",
            [
                ("group", snapshot.replica.group), ("received_bytes", "\(snapshot.receivedBytes)"),
                ("problem", error.text),
            ])
    }

    /// Gives a snapshot up, with what is there of it.
    func abandon(_ snapshot: IncomingSnapshot, _ error: RpcError?) {
        if case .over = snapshot.phase { return }
        if let error {
            logger.log(
                .warning, "snapshot given up", [("group", snapshot.replica.group), ("problem", error.text)])
            snapshot.replica.nextIncoming = now + RaftHost.pauseAfterFailure
        }
        let error = error ?? RpcError(code: 125, text: "given up")
        snapshot.responder?.fail(error.code, error.text)
        finish(snapshot)
    }

    private func finish(_ snapshot: IncomingSnapshot) {
        snapshot.phase = .over
        snapshot.responder = nil
        receiving.order.removeAll { $0 === snapshot }
        if snapshot.replica.incoming === snapshot { snapshot.replica.incoming = nil }
        removeFolder(snapshot.folderName)
        if let download = snapshot.download { return close(download) }
        guard !receiving.order.contains(where: { $0.sender == snapshot.sender }) else { return }
        // not from inside a call of it
        let channel = receiving.channels.removeValue(forKey: snapshot.sender)
        receiving.channelOrder.removeAll { $0 == snapshot.sender }
        later { channel?.close() }
    }

    /// Called once a turn; returns when it is to be called next at the latest.
    func pursueReceiving() -> Instant? {
        var next = pursueInstallations()
        for node in receiving.channelOrder {
            if let due = receiving.channels[node]?.expire(now: now) { next = min(next ?? due, due) }
        }
        for snapshot in receiving.order {
            guard let download = snapshot.download, let due = pursue(download, of: snapshot) else { continue }
            next = min(next ?? due, due)
        }
        for snapshot in receiving.order where !snapshot.isActive {
            let end = snapshot.usedAt + settings.snapshotPatience
            if end <= now {
                abandon(snapshot, RpcError(code: 125, text: "not offered again"))
            } else {
                next = min(next ?? end, end)
            }
        }
        return next
    }

    // MARK: installing

    /// Everything is here: is it what was sent?
    func complete(_ snapshot: IncomingSnapshot) {
        guard let folder = snapshot.folder else { preconditionFailure("pieces have a folder") }
        snapshot.phase = .installing
        if let download = snapshot.download {
            check(SnapshotCheck(of: folder, named: download.storedNames), snapshot)
        } else {
            check(SnapshotCheck(of: folder, against: snapshot.files), snapshot)
        }
    }

    /// One step after the other: what waits for the same worker gets its turn in between.
    private func check(_ check: SnapshotCheck, _ snapshot: IncomingSnapshot) {
        let result = Box<Result<Bool, StateMachineError>?>(nil)
        workers.maintenance.submit {
            do throws(StateMachineError) { result.value = .success(try check.advance()) } catch {
                result.value = .failure(error)
            }
        } completion: { [self] in
            guard !isOver else { return }
            now = lane.clock.now
            switch result.value {
            case .success(false)?: self.check(check, snapshot)
            case .success(true)?:
                if snapshot.download == nil { closeAtSender(snapshot) }
                ingest(snapshot, check.folder)
            case .failure(let error)?: abandon(snapshot, RpcError(code: 5, text: error.description))
            case nil: preconditionFailure("the worker has been there")
            }
            lane.requestTurn()
        }
    }

    private func closeAtSender(_ snapshot: IncomingSnapshot) {
        wire.arena.scope { arena in
            let message = arena.make(flotilla__snapshot_close_request__init)
            message.pointee.id = snapshot.id
            // whatever comes of it: the sender forgets it by itself some time
            channel(to: snapshot.sender).call(
                service: RaftHost.snapshotService, method: "close", message: message,
                deadline: now + RaftHost.openTimeout
            ) { _ in }
        }
    }

    private func ingest(_ snapshot: IncomingSnapshot, _ folder: StoredFolder) {
        guard let store else { preconditionFailure("no snapshot is wanted without a store") }
        let record = snapshot.replica.record
        let (number, meta) = (snapshot.store, snapshot.meta)
        let installer = Box<(any SnapshotInstaller)?>(nil)
        step(snapshot, installer) { () throws(StateMachineError) in
            let found = try store.installer(
                of: folder, as: number, group: record.group, kind: record.kind, expecting: meta)
            installer.value = found
            guard found == nil else { return .took(0) }
            // a state that lives in memory takes its time, and nobody else's
            return .done(
                try store.install(folder, as: number, group: record.group, kind: record.kind, expecting: meta))
        }
    }

    /// One step after the other: what waits for the same worker gets its turn in between.
    private func step(
        _ snapshot: IncomingSnapshot, _ installer: Box<(any SnapshotInstaller)?>,
        _ job: @escaping @Sendable () throws(StateMachineError) -> SnapshotInstallStep
    ) {
        let result = Box<Result<SnapshotInstallStep, StateMachineError>?>(nil)
        workers.maintenance.submit {
            do throws(StateMachineError) { result.value = .success(try job()) } catch { result.value = .failure(error) }
        } completion: { [self] in
            guard !isOver else { return }
            now = lane.clock.now
            switch result.value {
            case .success(.took(let bytes))?:
                guard let installer = installer.value else { preconditionFailure("nobody is at it") }
                // what was written is paid for before there is more: the log is on the same device
                let due = snapshotBudget.take(bytes, now: now)
                receiving.installs.append(SnapshotInstallation(due: due, snapshot: snapshot, installer: installer))
            case .success(.done(let machine))?: putInForce(snapshot, machine)
            case .failure(let error)?: abandon(snapshot, RpcError(code: 5, text: error.description))
            case nil: preconditionFailure("the worker has been there")
            }
            lane.requestTurn()
        }
    }

    /// Called once a turn; returns when it is to be called next at the latest.
    private func pursueInstallations() -> Instant? {
        while let next = receiving.installs.first, next.due <= now {
            _ = receiving.installs.popFirst()
            let installer = next.installer
            step(next.snapshot, Box(installer)) { () throws(StateMachineError) in
                try installer.advance(about: RaftHost.checkedBytes)
            }
        }
        return receiving.installs.first?.due
    }

    /// The core decides: meanwhile the log may have got there by itself.
    private func putInForce(_ snapshot: IncomingSnapshot, _ machine: any SnapshotStateMachine) {
        let replica = snapshot.replica
        var context = StepContext(responder: snapshot.responder)
        context.store = snapshot.store
        step(replica, .snapshotReceived(snapshot.meta), context)
        let isStateOnly =
            effects.install == nil && effects.acknowledgement != nil
            && (replica.needsState || wantsLaterState(snapshot.meta, replica))
            && snapshot.meta.last.index >= replica.raft.base.index
        if isStateOnly {
            // the log stays as it is
            let note = ReplicaNote(store: snapshot.store).packed(wire.arena)
            batch.append(LogWrite(group: replica.record.number, note: note))
        }
        guard effects.install != nil || isStateOnly else {
            if effects.acknowledgement == nil { snapshot.responder?.fail(116, "not wanted any more") }
            dropState(snapshot.store)
            return finish(snapshot)
        }
        // the step has taken the responder
        snapshot.responder = nil
        // from here to the switch nothing is applied to the old state, which the log does not continue any more
        replica.isSwitching = true
        whenDurable(of: replica.record.number) { [self] in
            // behind whatever is being applied to the old state
            workers.apply.submit {
            } completion: { [self] in
                guard !isOver else { return }
                now = lane.clock.now
                switchState(of: replica, to: machine, snapshot)
            }
        }
    }

    private func switchState(
        of replica: Replica, to machine: any SnapshotStateMachine, _ snapshot: IncomingSnapshot
    ) {
        let former = replica.record.store
        replica.record.store = snapshot.store
        if let position = nodeState.replicas.firstIndex(where: { $0.number == replica.record.number }) {
            nodeState.replicas[position].store = snapshot.store
            nodeState.replicas[position].fence = nil
        }
        replica.record.fence = nil
        (replica.fence, replica.trial) = (nil, nil)
        replica.adopt(machine, settings)
        replica.guest?.noteSnapshot(settings)
        replica.generation += 1
        replica.failedReads = 0
        dropOutgoing(of: replica)
        replica.isSwitching = false
        replica.needsState = false
        replica.applyRetry = nil
        replica.applied = snapshot.meta.last.index
        replica.applyOrdered = replica.applied
        replica.applicable = max(replica.applicable, replica.applied)
        observer?.switched(replica.group, to: snapshot.meta.last)
        onStateMachine(replica.record, machine)
        logger.log(
            .info, "snapshot installed",
            [
                ("group", replica.group), ("index", snapshot.meta.last.index.description),
                ("bytes", "\(snapshot.receivedBytes)"),
            ])
        releaseReads(of: replica)
        if replica.applied < replica.applicable { readyToApply(replica) } else { servesAgain(replica) }
        // behind reads of it that were begun
        evaluations.append(Evaluation(job: {}, completion: { [self] in dropState(former) }))
        finish(snapshot)
        wantsCompaction = true
        lane.requestTurn()
    }

    /// Removes what no replica has: states of snapshots that were not put in force, and of replicas whose state was
    /// replaced, just before an earlier life ended; and parts of the log. Called once, when all replicas are open; takes
    /// its time.
    public func removeUnknownStates() {
        dropUnknownLogs()
        removeStates()
    }

    func removeStates() {
        // a replica that cannot say which state is its own might lose it
        guard let store, unknownStates.isEmpty else { return }
        let found = Box<[UInt64]>([])
        let logger = self.logger
        workers.maintenance.submit {
            do throws(StateMachineError) { found.value = try store.numbers() } catch {
                logger.log(.warning, "old states stay for now", [("problem", error.description)])
            }
        } completion: { [self] in
            let known = Set(nodeState.replicas.map(\.store))
            // what this life has made is no business of its start
            for number in found.value where number < firstFreshNumber && !known.contains(number) {
                logger.log(.info, "a state that no replica has is removed", [("number", "\(number)")])
                dropState(number)
            }
        }
    }

    /// Removes a state that no replica has any more; calls `done` when that was tried.
    func dropState(_ number: UInt64, then done: @escaping () -> Void = {}) {
        let store = self.store
        let logger = self.logger
        let done = Box(done)
        workers.maintenance.submit {
            do throws(StateMachineError) { try store?.drop(number) } catch {
                // the next start tries again
                logger.log(.warning, "an old state stays for now", [("problem", error.description)])
            }
        } completion: {
            done.value()
        }
    }
}
