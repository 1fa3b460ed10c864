import CMessages
import RaftCore
import WireMessages

// The messages by which snapshots travel between us and a braft: the uri of an offer, `braft.FileService`, and the list
// of a snapshot's files.

/// A file of a braft's snapshot, as its list names it. What it says besides is the application's and means nothing here.
struct BraftFile: Equatable {
    var name: String
    /// Where it lies in a folder.
    var storedName: String
    var userMeta: Bytes?
    var checksum: String?
}

/// The place of a snapshot that a braft's offer names.
struct BraftSource: Equatable {
    var address: NodeAddress
    /// Signed, and negative as often as not.
    var reader: Int64
}

/// A part of a file.
struct GetFileRequest: Equatable {
    var reader: Int64
    var name: String
    var count: Int64
    var offset: Int64
    var readPartly: Bool
}

/// What came of it.
struct GetFileReply: Equatable {
    var isAtEnd: Bool
    /// Bytes of the file that were looked at; nil if not said.
    var readSize: Int64?
}

/// Bytes of a file and where they belong.
struct FileSegment: Equatable {
    var offset: Int
    var bytes: Bytes
}

extension RaftWire {
    // MARK: uri

    static let braftScheme = "remote://"

    /// The place that `uri` names; nil unless it has an IPv4 address, a port and a decimal number.
    static func braftSource(_ uri: String) -> BraftSource? {
        guard uri.hasPrefix(braftScheme) else { return nil }
        let parts = uri.dropFirst(braftScheme.count).split(
            separator: "/", maxSplits: 1, omittingEmptySubsequences: false)
        guard parts.count == 2, let address = NodeAddress(parts[0]), address.ip != 0, address.port != 0,
            let reader = Int64(parts[1]), parts[1].first != "+"
        else { return nil }
        return BraftSource(address: address, reader: reader)
    }

    // MARK: get_file

    func getFileRequest(
        _ request: GetFileRequest, arena: Arena
    ) -> UnsafeMutablePointer<Braft__GetFileRequest> {
        let message = arena.make(braft__get_file_request__init)
        message.pointee.reader_id = request.reader
        message.pointee.filename = arena.string(request.name)
        message.pointee.count = request.count
        message.pointee.offset = request.offset
        message.pointee.has_read_partly = 1
        message.pointee.read_partly = request.readPartly ? 1 : 0
        return message
    }

    func decodeGetFileRequest(_ body: Bytes) -> GetFileRequest? {
        arena.scope { arena in
            arena.unpack(braft__get_file_request__init, body).map {
                GetFileRequest(
                    reader: $0.pointee.reader_id, name: String(field: $0.pointee.filename), count: $0.pointee.count,
                    offset: $0.pointee.offset,
                    readPartly: $0.pointee.has_read_partly != 0 && $0.pointee.read_partly != 0)
            }
        }
    }

    func getFileReply(_ reply: GetFileReply, arena: Arena) -> UnsafeMutablePointer<Braft__GetFileResponse> {
        let message = arena.make(braft__get_file_response__init)
        message.pointee.eof = reply.isAtEnd ? 1 : 0
        if let size = reply.readSize {
            message.pointee.has_read_size = 1
            message.pointee.read_size = size
        }
        return message
    }

    func decodeGetFileReply(_ body: Bytes) -> GetFileReply? {
        arena.scope { arena in
            arena.unpack(braft__get_file_response__init, body).map {
                GetFileReply(
                    isAtEnd: $0.pointee.eof != 0, readSize: $0.pointee.has_read_size != 0 ? $0.pointee.read_size : nil)
            }
        }
    }

    // MARK: segments

    private static let segmentHeaderBytes = 12

    /// What stands before `count` bytes that belong at `offset`.
    static func segmentHeader(offset: Int, count: Int) -> Bytes {
        Bytes(count: segmentHeaderBytes) { buffer in
            buffer.storeBytes(of: UInt64(offset).bigEndian, as: UInt64.self)
            buffer.storeBytes(of: UInt32(count).bigEndian, toByteOffset: 8, as: UInt32.self)
        }
    }

    /// The segments in an attachment, which lie in `range` of the file; nil if they do not, or one is cut short. As braft
    /// sends them they ascend, and lie apart by blocks that were all zero: those that overlap, or are far too many, are
    /// nobody's.
    static func segments(_ attachment: Bytes, within range: Range<Int>) -> [FileSegment]? {
        var segments: [FileSegment] = []
        var behind = range.lowerBound
        var headersLeft = range.count / 512 + 2
        var position = 0
        while position < attachment.count {
            guard attachment.count - position >= segmentHeaderBytes, headersLeft > 0 else { return nil }
            headersLeft -= 1
            let (offset, count) = attachment.withUnsafeBytes { buffer in
                (
                    UInt64(bigEndian: buffer.loadUnaligned(fromByteOffset: position, as: UInt64.self)),
                    Int(UInt32(bigEndian: buffer.loadUnaligned(fromByteOffset: position + 8, as: UInt32.self)))
                )
            }
            position += segmentHeaderBytes
            guard count <= attachment.count - position, let offset = Int(exactly: offset), offset >= behind,
                offset <= range.upperBound, count <= range.upperBound - offset
            else { return nil }
            if count > 0 {
                segments.append(FileSegment(offset: offset, bytes: attachment.slice(from: position, count: count)))
            }
            behind = offset + count
            position += count
        }
        return segments
    }

    // MARK: the list

    /// The file ``RaftCore/BraftSnapshot/listName`` of a snapshot that stands for `meta`.
    func braftList(_ files: [BraftFile], _ meta: SnapshotMeta) -> Bytes {
        arena.scope { arena in
            let message = arena.make(braft__local_snapshot_pb_meta__init)
            message.pointee.meta = snapshotMeta(meta, arena: arena)
            message.pointee.n_files = files.count
            message.pointee.files = arena.array(
                files.map { file -> UnsafeMutablePointer<Braft__LocalSnapshotPbMeta__File>? in
                    let entry = arena.make(braft__local_snapshot_pb_meta__file__init)
                    let details = arena.make(braft__local_file_meta__init)
                    entry.pointee.name = arena.string(file.name)
                    entry.pointee.meta = details
                    if let userMeta = file.userMeta {
                        details.pointee.has_user_meta = 1
                        details.pointee.user_meta = arena.data(userMeta)
                    }
                    details.pointee.checksum = file.checksum.map { arena.string($0) }
                    return entry
                })
            return arena.pack(message)
        }
    }

    /// The files that a list names, and where the snapshot stands by it. Throws what is wrong with it.
    func decodeBraftList(_ body: Bytes) throws(WireError) -> (files: [BraftFile], last: LogPosition) {
        try arena.scope { (arena) throws(WireError) -> (files: [BraftFile], last: LogPosition) in
            guard let list = arena.unpack(braft__local_snapshot_pb_meta__init, body)?.pointee,
                let meta = list.meta?.pointee
            else { throw RaftWire.badList("it does not parse") }
            guard list.n_files <= RaftWire.braftFilesMax else { throw RaftWire.badList("it names too many files") }
            var files: [BraftFile] = []
            // by their bytes: two names may be equal as text and are two files all the same
            var names: Set<[UInt8]> = []
            for position in 0..<list.n_files {
                guard let file = list.files[position]?.pointee, let name = String(validatingCString: file.name),
                    let stored = BraftSnapshot.storedName(of: name), names.insert(Array(name.utf8)).inserted
                else {
                    let name = String(field: list.files[position]?.pointee.name)
                    throw RaftWire.badList("file \(position) has a name that cannot be used: \(name.prefix(64))")
                }
                let details = file.meta?.pointee
                files.append(
                    BraftFile(
                        name: name, storedName: stored,
                        userMeta: details.flatMap { $0.has_user_meta != 0 ? Bytes($0.user_meta) : nil },
                        checksum: details.flatMap { $0.checksum.map { String(field: $0) } }))
            }
            let last = LogPosition(term: Term(meta.last_included_term), index: LogIndex(meta.last_included_index))
            return (files, last)
        }
    }

    private static let braftFilesMax = 10_000

    private static func badList(_ problem: String) -> WireError {
        WireError(code: 22, text: "the list of the snapshot's files cannot be used: \(problem)")
    }
}
