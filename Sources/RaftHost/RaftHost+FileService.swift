import CMessages
import RaftCore
import RaftStorage
import Transport
import WireMessages

// Snapshots for brafts. The files are written first; then braft's install_snapshot offers them under the number of a
// reader, and the peer fetches them with braft.FileService's get_file. A reader counts until the offer is answered, or
// the connection that carried it breaks; each offer has a reader of its own, for a peer begins anew with each.

/// What a snapshot shows to a braft. Lane-confined; completions may carry it past a worker.
final class BraftExhibit: @unchecked Sendable {
    /// The list of its files as it is sent, once all is written.
    var list: Bytes?
    /// What is in it: sizes, and the names in the folder, by the names listed.
    var files = ExhibitedFiles()
    /// When bytes of a file last went to it, or the list was made; nil before.
    var readAt: Instant?
    /// Of offers that were not answered.
    var readers: [BraftReader] = []
}

/// A snapshot's files by the names under which they are listed. Names are told apart by their bytes, as the reader does,
/// not as text.
struct ExhibitedFiles {
    /// For look-up only.
    private var byName: [[UInt8]: StoredFolder.File] = [:]

    init() {}

    /// Those that are `named`, each of which is among the `stored`.
    init(_ named: [BraftFile], stored: [StoredFolder.File]) {
        let known = Dictionary(stored.map { (Array($0.name.utf8), $0) }) { first, _ in first }
        for file in named { byName[Array(file.name.utf8)] = known[Array(file.storedName.utf8)] }
    }

    subscript(name: String) -> StoredFolder.File? { byName[Array(name.utf8)] }
}

/// One reading of a snapshot's files, one after the other. Lane-confined; completions may carry it past a worker.
final class BraftReader: @unchecked Sendable {
    let id: Int64
    let snapshot: OutgoingSnapshot
    /// The file read last; another one may be begun when that was read to its end.
    var file: String?
    var isAtEnd = true
    /// A read is under way: there is one at a time.
    var isReading = false

    init(id: Int64, snapshot: OutgoingSnapshot) {
        self.id = id
        self.snapshot = snapshot
    }

    /// Whether the file read last is the one of that name.
    func reads(_ name: String) -> Bool { file.map { FileNames.areSame($0, name) } ?? false }
}

extension RaftHost {
    static let fileService = "braft.FileService"

    /// What a peer gets at once that takes no less than it asks for.
    static let wholeReadBytes = 4 << 20
    /// A read that would wait longer for the budget is refused, well before the peer loses patience.
    private static let readPatience = Interval.milliseconds(2000)
    /// How long a peer is left alone that is busy, as braft does.
    private static let busyPause = Interval.milliseconds(1000)

    // MARK: offering

    /// Offers the files to the peer, a braft, as soon as they are there.
    func offer(_ snapshot: OutgoingSnapshot, _ exhibit: BraftExhibit) {
        snapshot.usedAt = now
        let (replica, peer) = (snapshot.replica, snapshot.peer)
        // offered again it was not read yet
        pin(replica, for: peer, at: snapshot.meta.last.index, since: exhibit.readAt ?? now)
        if case .frozen(let frozen) = snapshot.phase {
            guard hasRoomToSend(toBraft: true) else {
                drop(snapshot)
                return pause(peer, replica)
            }
            // nothing of ours will keep it: the number means nothing there
            snapshot.store = 0
            snapshot.phase = .writing([])
            return write(frozen, of: snapshot, as: 0)
        }
        guard exhibit.list != nil else { return }
        let reader = BraftReader(id: Int64(bitPattern: sending.random.next() >> 1), snapshot: snapshot)
        sending.readers[reader.id] = reader
        exhibit.readers.append(reader)
        snapshot.offersUnderWay += 1
        logger.log(
            .info, "snapshot offered to a braft",
            [("group", replica.group), ("peer", peer.description), ("index", snapshot.meta.last.index.description)])
        let uri = "\(RaftWire.braftScheme)\(identity.address)/\(reader.id)"
        offer(
            snapshot.meta, uri: uri, to: peer, of: replica, silent: [RaftHost.superseded, RaftHost.busy]
        ) { [self] result in
            snapshot.offersUnderWay -= 1
            snapshot.usedAt = now
            sending.readers[reader.id] = nil
            exhibit.readers.removeAll { $0 === reader }
            switch result {
            case .reply: drop(snapshot)
            case .failed(let error) where error.code == RaftHost.superseded || error.code == RaftHost.busy:
                // a later offer that is under way will be answered
                if snapshot.offersUnderWay == 0 { pause(peer, replica) }
            // the files may serve for the next offer
            case .failed(let error) where RaftHost.isInterruption(error.code): break
            case .failed: drop(snapshot)
            }
        }
    }

    /// The core hears in a while that the peer did not take it.
    private func pause(_ peer: PeerID, _ replica: Replica) {
        sending.pauses.append((now + RaftHost.busyPause, peer, replica))
        lane.requestTurn()
    }

    /// The files are there: lists them, under the names that the state gives them or else those they have, and offers
    /// them.
    func list(
        _ files: [StoredFolder.File], in folder: StoredFolder, of snapshot: OutgoingSnapshot, _ exhibit: BraftExhibit
    ) {
        let isListed = files.contains { $0.name == BraftSnapshot.listName }
        let result = Box<Result<[BraftFile], RaftWire.WireError>>(.success([]))
        workers.reader.submit {
            do throws(RaftWire.WireError) {
                result.value = .success(try RaftHost.namedFiles(files, in: folder, isListed: isListed))
            } catch {
                result.value = .failure(error)
            }
        } completion: { [self] in
            now = lane.clock.now
            guard !snapshot.isDropped, !isOver else { return }
            switch result.value {
            case .success(let named):
                exhibit.files = ExhibitedFiles(named, stored: files)
                exhibit.readAt = now
                exhibit.list = wire.braftList(named, snapshot.meta)
                let replica = snapshot.replica
                // if it is wanted still: the core may have lost interest, or another leads
                if replica.raft.progress(of: snapshot.peer)?.isInstalling == true { offer(snapshot, exhibit) }
            case .failure(let error):
                logger.log(
                    .warning, "a snapshot's files cannot be listed",
                    [("group", snapshot.replica.group), ("problem", error.text)])
                drop(snapshot)
                isUnanswered(snapshot.peer, snapshot.replica)
            }
            lane.requestTurn()
        }
    }

    /// On a worker.
    private static func namedFiles(
        _ files: [StoredFolder.File], in folder: StoredFolder, isListed: Bool
    ) throws(RaftWire.WireError) -> [BraftFile] {
        guard isListed else {
            return try files.map { (file) throws(RaftWire.WireError) in
                guard let name = BraftSnapshot.name(ofStored: file.name) else {
                    throw RaftWire.WireError(code: 22, text: "\(file.name) is no name for a braft")
                }
                return BraftFile(name: name, storedName: file.name)
            }
        }
        let list: Bytes
        do throws(StateMachineError) { list = try folder.contents(of: BraftSnapshot.listName) } catch {
            throw RaftWire.WireError(code: 5, text: error.description)
        }
        let named = try RaftWire().decodeBraftList(list).files.sorted { FileNames.areAscending($0.name, $1.name) }
        let stored = ExhibitedFiles(named, stored: files)
        guard named.allSatisfy({ stored[$0.name] != nil }) else {
            throw RaftWire.WireError(code: 2, text: "a listed file is missing")
        }
        return named
    }

    /// A braft has read nothing for so long that others may have its place, and the log goes on without it: it has all and
    /// takes long with that, is busy, or hangs. The offer's answer counts still if it comes, and so does that of a reader
    /// that comes too late (2).
    func giveUpUnread(_ snapshot: OutgoingSnapshot) {
        let (replica, peer) = (snapshot.replica, snapshot.peer)
        logger.log(
            .info, "a snapshot is kept no longer for a braft that does not read it",
            [
                ("group", replica.group), ("peer", peer.description),
                ("index", snapshot.meta.last.index.description), ("sent_bytes", "\(snapshot.sentBytes)"),
            ])
        replica.pins.removeAll { $0.peer == peer }
        drop(snapshot)
    }

    /// Nobody reads it any more.
    func close(_ exhibit: BraftExhibit) {
        for reader in exhibit.readers { sending.readers[reader.id] = nil }
        exhibit.readers = []
    }

    // MARK: serving

    /// Answers in the order of the checks, and with the numbers, that braft has.
    func getFile(_ request: RpcRequest) throws(RaftWire.WireError) {
        guard let asked = wire.decodeGetFileRequest(request.body) else { throw RaftHost.malformed }
        guard let reader = sending.readers[asked.reader], let exhibit = reader.snapshot.exhibit,
            let list = exhibit.list
        else { throw RaftWire.WireError(code: 2, text: "no reader has the number \(asked.reader)") }
        guard asked.count > 0, asked.offset >= 0, let offset = Int(exactly: asked.offset) else {
            throw RaftWire.WireError(code: RpcCode.badRequest, text: "the count or the offset cannot be used")
        }
        now = lane.clock.now
        guard asked.name != BraftSnapshot.listName else {
            // in one piece, whatever was asked for
            let reply = GetFileReply(isAtEnd: true, readSize: Int64(list.count))
            return answerFile(request.responder, reply, offset: offset, list)
        }
        guard let file = exhibit.files[asked.name] else {
            throw RaftWire.WireError(code: 1, text: "the snapshot has no such file")
        }
        let atOnce = asked.readPartly ? settings.snapshotChunkBytes : RaftHost.wholeReadBytes
        let left = max(0, file.byteCount - offset)
        let count = Int(min(asked.count, Int64(min(atOnce, left))))
        let isShortened = Int64(count) < asked.count && count < left
        let isBacklogged = snapshotBudget.backlog(now) > RaftHost.readPatience
        // it would read, were it not for others
        if isBacklogged { exhibit.readAt = now }
        guard asked.readPartly || !isShortened, !isBacklogged else {
            throw RaftWire.WireError(code: RaftHost.again, text: "not now, or not so much at once")
        }
        guard !reader.isReading else {
            throw RaftWire.WireError(code: RaftHost.again, text: "another read is under way")
        }
        if !reader.reads(asked.name) {
            guard reader.isAtEnd, offset == 0 else {
                throw RaftWire.WireError(code: 22, text: "the file before is not read to its end")
            }
            reader.file = asked.name
            reader.isAtEnd = false
        }
        guard count > 0 else {
            reader.isAtEnd = true
            return answerFile(
                request.responder, GetFileReply(isAtEnd: true, readSize: 0), offset: offset, Bytes())
        }
        reader.isReading = true
        reader.snapshot.sentBytes += count
        sending.reads.append(
            SnapshotRead(
                due: snapshotBudget.take(count, now: now), snapshot: reader.snapshot, file: file.name, offset: offset,
                count: count, responder: request.responder, reader: reader))
    }

    /// The bytes of a file are here.
    func answerFile(_ read: SnapshotRead, _ bytes: Bytes) {
        guard let reader = read.reader, let name = reader.file, let file = reader.snapshot.exhibit?.files[name] else {
            preconditionFailure("whoever reads has a file")
        }
        noteUse(of: reader.snapshot)
        reader.snapshot.exhibit?.readAt = now
        reader.isAtEnd = read.offset + bytes.count >= file.byteCount
        let reply = GetFileReply(isAtEnd: reader.isAtEnd, readSize: Int64(bytes.count))
        answerFile(read.responder, reply, offset: read.offset, bytes)
    }

    private func answerFile(_ responder: RpcResponder, _ reply: GetFileReply, offset: Int, _ bytes: Bytes) {
        wire.arena.scope { arena in
            let message = wire.getFileReply(reply, arena: arena)
            // not raw: each run of bytes says where it belongs
            let attachment =
                bytes.isEmpty ? [] : [RaftWire.segmentHeader(offset: offset, count: bytes.count), bytes]
            responder.reply(message, attachment: attachment)
        }
    }
}
