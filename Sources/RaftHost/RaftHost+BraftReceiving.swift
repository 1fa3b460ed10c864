import CMessages
import RaftCore
import RaftStorage
import Transport
import WireMessages

// A snapshot of a braft on its way here: first the list of its files, then one file after the other with get_file, part
// by part. A part that does not come is asked for again a few times; when that was in vain the offer is answered with the
// error, and what is here waits for the next one. With another reader the file begun is read from its start, for that is
// what a reader needs; those before it are kept, if the same node offers the same snapshot with the same list.

/// The files of a braft's snapshot, as far as they are here. Lane-confined; completions may carry it past a worker.
final class BraftDownload: @unchecked Sendable {
    /// Where it is read; another one with each offer.
    var source: BraftSource
    var channel: RpcChannel
    /// Counts the readers: what was asked of an earlier one is nothing to this one.
    var attempt = 0

    /// The list as it came, and as far as it has come with this reader.
    var list: Bytes?
    var incomingList: [UInt8] = []
    var isReadingList = true
    var files: [BraftFile] = []

    /// The file being read, and how far.
    var position = 0
    var offset = 0
    /// Where the last of its bytes that were ever written ends; zeros that were left out come behind that.
    var writtenEnd = 0
    var receivedBytes = 0
    /// Of all files so far, with what was left out of them: what they take where they are installed.
    var coveredBytes = 0
    /// The most that ever was.
    var furthest = 0
    /// Readers that began with the file in vain.
    var restarts = 0

    /// When to ask again, if nothing is under way.
    var askAt: Instant?
    /// How often the part was asked for in vain.
    var failures = 0
    /// What keeps its place here; the same whoever offers it again.
    var rate: LeastRate

    init(from source: BraftSource, _ channel: RpcChannel, _ rate: LeastRate) {
        self.source = source
        self.channel = channel
        self.rate = rate
    }

    /// All that is in the folder when it is complete.
    var storedNames: [String] { files.map(\.storedName) + [BraftSnapshot.listName] }

    /// Reads with another reader from now on.
    func restart(from source: BraftSource, _ channel: RpcChannel) {
        furthest = max(furthest, coveredBytes)
        coveredBytes -= offset
        restarts += 1
        (self.source, self.channel, offset) = (source, channel, 0)
    }

    /// A part of a file has come: `bytes` of the `covered` ones travelled, the rest was left out.
    func noteProgress(_ bytes: Int, covered: Int, isAtEnd: Bool, now: Instant) {
        receivedBytes += bytes
        coveredBytes += covered
        // what was here before counts for a few readers, or a long file would never come over a bad line
        guard restarts <= BraftDownload.restartsMax || coveredBytes > furthest else { return }
        // zeros and ends of files travel for next to nothing
        rate.take(max(bytes, isAtEnd ? BraftDownload.leastWorth : min(covered, BraftDownload.leastWorth)), now: now)
    }

    private static let restartsMax = 3
    private static let leastWorth = 4 << 10
}

extension RaftHost {
    /// What is asked for at once, as braft does.
    static let braftPartBytes: Int64 = 128 << 10
    /// The list is asked for as a whole.
    private static let braftListCount: Int64 = 0xffff_ffff
    private static let braftListBytesMax = 4 << 20
    /// Whoever sends less than that in a snapshot's patience holds up others.
    private static let braftLeastBytes = 64 << 10
    private static let braftFileBytesMax = 1 << 44
    private static let braftTimeout = Interval.milliseconds(10_000)
    private static let braftRetryPause = Interval.milliseconds(1000)
    private static let braftRetries = 3
    private static let pauseBeforeNewer = Interval.milliseconds(250)
    static let noRoom: Int32 = 28
    private static let cancelled: Int32 = 125

    // MARK: the offer

    /// A braft offers what the replica lacks: the rules are braft's.
    func want(
        _ meta: SnapshotMeta, from sender: NodeAddress, _ source: BraftSource, of replica: Replica,
        _ responder: RpcResponder
    ) throws(RaftWire.WireError) {
        guard stopping == nil else { throw RaftWire.WireError(code: RpcCode.hostDown, text: "the node is stopping") }
        guard !replica.isSaving else { throw RaftHost.tooMany }
        now = lane.clock.now
        if let known = replica.incoming, try isSettled(known, meta, from: sender, source, responder) { return }
        guard hasRoomForAnother(isForeign: true), replica.nextIncoming <= now else { throw RaftHost.tooMany }
        let rate = LeastRate(of: RaftHost.braftLeastBytes, in: settings.pinPatience)
        let download = BraftDownload(from: source, makeStrangerChannel(to: source.address), rate)
        begin(
            IncomingSnapshot(
                id: UInt64(bitPattern: source.reader), replica: replica, sender: sender, meta: meta,
                store: nodeState.takeNumber(), now: now, download: download),
            responder)
    }

    /// Whether the offer is one of what is coming already; false if that was given up, and the offer is another.
    private func isSettled(
        _ known: IncomingSnapshot, _ meta: SnapshotMeta, from sender: NodeAddress, _ source: BraftSource,
        _ responder: RpcResponder
    ) throws(RaftWire.WireError) -> Bool {
        if let download = known.download, known.meta == meta, known.sender == sender {
            guard known.isActive || hasRoomForAnother(isForeign: true) else { throw RaftHost.tooMany }
            known.responder?.fail(RaftHost.superseded, "offered again")
            known.responder = responder
            known.usedAt = now
            let isOther = download.source != source
            if isOther, !known.isBeingInstalled {
                close(download)
                download.restart(from: source, makeStrangerChannel(to: source.address))
            }
            switch known.phase {
            // it begins when its folder is there
            case .preparing, .installing, .over: break
            case .fetching: if isOther { proceed(with: known) }
            case .interrupted: proceed(with: known)
            }
            return true
        }
        guard known.isActive else {
            abandon(known, nil)
            return false
        }
        if meta.last.index < known.meta.last.index {
            throw RaftWire.WireError(code: 22, text: "a newer snapshot is on its way")
        }
        guard !known.isBeingInstalled else { throw RaftHost.tooMany }
        // the next offer finds nothing in its way
        known.responder?.fail(RaftHost.cancelled, "a newer snapshot is offered")
        known.responder = nil
        abandon(known, nil)
        // each that begins takes a number, and that is a write of the node's record
        known.replica.nextIncoming = now + RaftHost.pauseBeforeNewer
        throw RaftHost.tooMany
    }

    /// Nothing more is read of it.
    func close(_ download: BraftDownload) {
        let channel = download.channel
        download.attempt += 1
        download.askAt = nil
        // not from inside a call of it
        later { channel.close() }
    }

    // MARK: reading

    /// Begins with a reader, or once more after an interruption.
    func askForList(of snapshot: IncomingSnapshot, _ download: BraftDownload) {
        download.attempt += 1
        (download.isReadingList, download.incomingList) = (true, [])
        (download.askAt, download.failures) = (nil, 0)
        download.rate.resume(now)
        ask(snapshot, download)
    }

    /// Called once a turn; returns when it is to be called next at the latest.
    func pursue(_ download: BraftDownload, of snapshot: IncomingSnapshot) -> Instant? {
        let due = download.channel.expire(now: now)
        guard case .fetching = snapshot.phase else { return due }
        if let end = download.rate.deadline, end <= now {
            abandon(snapshot, RpcError(code: RaftHost.cancelled, text: "the snapshot comes too slowly"))
            return nil
        }
        if let askAt = download.askAt, askAt <= now {
            download.askAt = nil
            proceed(snapshot, download)
        }
        let dues = [download.channel.expire(now: now), download.askAt, download.rate.deadline]
        return dues.lazy.compactMap { $0 }.min()
    }

    /// Asks for the next part, of the list or of a file.
    private func ask(_ snapshot: IncomingSnapshot, _ download: BraftDownload) {
        receiving.piecesAsked += 1
        let attempt = download.attempt
        let isList = download.isReadingList
        let request = GetFileRequest(
            reader: download.source.reader,
            name: isList ? BraftSnapshot.listName : download.files[download.position].name,
            count: isList ? RaftHost.braftListCount : RaftHost.braftPartBytes,
            offset: Int64(isList ? download.incomingList.count : download.offset), readPartly: true)
        wire.arena.scope { arena in
            download.channel.call(
                service: RaftHost.fileService, method: "get_file", message: wire.getFileRequest(request, arena: arena),
                deadline: now + RaftHost.braftTimeout
            ) { [self] result in
                guard !isOver, download.attempt == attempt, case .fetching = snapshot.phase else { return }
                now = lane.clock.now
                lane.requestTurn()
                switch result {
                case .failed(let error): retry(snapshot, download, error)
                case .reply(let reply):
                    guard let answer = wire.decodeGetFileReply(reply.body) else {
                        return retry(snapshot, download, RaftHost.badAnswer)
                    }
                    download.failures = 0
                    if isList {
                        takeList(answer, reply.attachment, of: snapshot, download)
                    } else {
                        takePart(answer, reply.attachment, of: snapshot, download)
                    }
                }
            }
        }
    }

    private static let badAnswer = RpcError(code: RpcCode.badResponse, text: "a malformed answer")

    /// As braft does: if told so for as long as enough comes in between; a few times for any other reason.
    private func retry(_ snapshot: IncomingSnapshot, _ download: BraftDownload, _ error: RpcError) {
        if error.code != RaftHost.again {
            download.failures += 1
            guard download.failures <= RaftHost.braftRetries else { return interrupt(snapshot, error) }
        }
        snapshot.usedAt = now
        download.askAt = now + RaftHost.braftRetryPause
        lane.requestTurn()
    }

    /// A part of the list, which braft sends in one.
    private func takeList(
        _ answer: GetFileReply, _ attachment: Bytes, of snapshot: IncomingSnapshot, _ download: BraftDownload
    ) {
        let start = download.incomingList.count
        guard let segments = RaftWire.segments(attachment, within: start..<RaftHost.braftListBytesMax) else {
            return abandon(snapshot, RaftHost.badAnswer)
        }
        for segment in segments {
            // a list has no holes
            guard segment.offset == download.incomingList.count else { return abandon(snapshot, RaftHost.badAnswer) }
            download.incomingList += segment.bytes.array
        }
        guard answer.isAtEnd else {
            guard download.incomingList.count - start >= RaftHost.braftLeastBytes else {
                return abandon(snapshot, RaftHost.badAnswer)
            }
            return ask(snapshot, download)
        }
        begin(snapshot, download, with: Bytes(download.incomingList))
    }

    /// The list is here: the files follow, or those that were not read with another reader.
    private func begin(_ snapshot: IncomingSnapshot, _ download: BraftDownload, with list: Bytes) {
        guard let folder = snapshot.folder else { preconditionFailure("what is fetched has a folder") }
        if let known = download.list, known != list {
            return abandon(snapshot, RpcError(code: RaftHost.again, text: "other files under the same index"))
        }
        // from here on it may be in the folder, whatever comes of this reader
        download.list = list
        let expected = snapshot.meta.last
        let attempt = download.attempt
        let result = Box<Result<[BraftFile], RaftWire.WireError>?>(nil)
        // it is as long as a stranger likes; and behind what is being written of a part that came to an earlier reader
        workers.reader.submit {
            do throws(RaftWire.WireError) {
                result.value = .success(try RaftHost.keep(list, of: expected, in: folder))
            } catch {
                result.value = .failure(error)
            }
        } completion: { [self] in
            now = lane.clock.now
            guard case .fetching = snapshot.phase, download.attempt == attempt, !isOver else { return }
            switch result.value {
            case .success(let files)?:
                (download.files, download.isReadingList) = (files, false)
                proceed(snapshot, download)
            case .failure(let error)?: abandon(snapshot, RpcError(code: error.code, text: error.text))
            case nil: preconditionFailure("the worker has been there")
            }
        }
    }

    /// The files of a list, in the order in which they are read; the list is in the folder then. On a worker.
    private static func keep(
        _ list: Bytes, of expected: LogPosition, in folder: StoredFolder
    ) throws(RaftWire.WireError) -> [BraftFile] {
        let (files, last) = try RaftWire().decodeBraftList(list)
        guard last == expected else {
            throw RaftWire.WireError(code: 22, text: "the list is of \(last), the offer of \(expected)")
        }
        do throws(StateMachineError) { try folder.write(list, to: BraftSnapshot.listName, at: 0) } catch {
            throw RaftWire.WireError(code: 5, text: error.description)
        }
        return files.sorted { FileNames.areAscending($0.name, $1.name) }
    }

    /// The next part, or the end.
    private func proceed(_ snapshot: IncomingSnapshot, _ download: BraftDownload) {
        lane.requestTurn()
        guard download.isReadingList || download.position < download.files.count else { return complete(snapshot) }
        ask(snapshot, download)
    }

    private func takePart(
        _ answer: GetFileReply, _ attachment: Bytes, of snapshot: IncomingSnapshot, _ download: BraftDownload
    ) {
        let start = download.offset
        let limit = Int(RaftHost.braftPartBytes)
        let said = answer.readSize ?? 0
        guard said >= 0, said <= limit, start <= RaftHost.braftFileBytesMax,
            let segments = RaftWire.segments(attachment, within: start..<start + (said > 0 ? Int(said) : limit)),
            let folder = snapshot.folder
        else { return abandon(snapshot, RaftHost.badAnswer) }
        let written = segments.last.map { $0.offset + $0.bytes.count } ?? 0
        // what it does not say is what came at the end, and what was asked for before
        let next = said > 0 ? start + Int(said) : answer.isAtEnd ? max(start, written) : start + limit
        let writtenEnd = max(download.writtenEnd, written)
        guard !answer.isAtEnd || writtenEnd <= next else {
            // it was longer when it was read before
            return abandon(snapshot, RpcError(code: RaftHost.again, text: "other files under the same index"))
        }
        let bytes = segments.reduce(0) { $0 + $1.bytes.count }
        let covered = next - start
        // what is left out of the files is written out where they are installed
        let room = settings.minimumFreeBytes + download.coveredBytes + covered
        let size = answer.isAtEnd ? next : nil
        let part = FilePart(
            name: download.files[download.position].storedName, segments: segments, size: size, writtenEnd: writtenEnd)
        let attempt = download.attempt
        let result = Box<RpcError?>(nil)
        workers.reader.submit { [snapshots] in
            result.value = part.write(to: folder, in: snapshots, leaving: room)
        } completion: { [self] in
            now = lane.clock.now
            guard case .fetching = snapshot.phase, !isOver else { return }
            if let error = result.value { return abandon(snapshot, error) }
            download.writtenEnd = max(download.writtenEnd, size ?? writtenEnd)
            guard download.attempt == attempt else { return }
            download.noteProgress(bytes, covered: covered, isAtEnd: answer.isAtEnd, now: now)
            snapshot.usedAt = now
            if answer.isAtEnd {
                download.position += 1
                (download.offset, download.writtenEnd, download.restarts) = (0, 0, 0)
            } else {
                download.offset = next
            }
            // what has come is paid for before more is asked for: the sender may know of no budget
            let due = snapshotBudget.take(max(bytes, covered), now: now)
            guard due > now else { return proceed(snapshot, download) }
            download.rate.excuse(due - now)
            download.askAt = due
            lane.requestTurn()
        }
    }
}

/// What came of a file.
private struct FilePart: Sendable {
    var name: String
    var segments: [FileSegment]
    /// Of the whole file, if this was its end.
    var size: Int?
    var writtenEnd: Int

    /// Returns what went wrong. On a worker.
    func write(to folder: StoredFolder, in store: SnapshotStore, leaving room: Int) -> RpcError? {
        do throws(StateMachineError) {
            guard try store.freeBytes() > room else {
                return RpcError(code: RaftHost.noRoom, text: "too little room for a snapshot")
            }
            for segment in segments where !segment.bytes.isEmpty {
                try folder.write(segment.bytes, to: name, at: segment.offset)
            }
            guard let size else { return nil }
            if size > writtenEnd {
                // zeros at the end of a file may have been left out
                try folder.write(Bytes([0]), to: name, at: size - 1)
            } else if size == 0 {
                try folder.append(Bytes(), to: name)
            }
            return nil
        } catch {
            return RpcError(code: 5, text: error.description)
        }
    }
}
