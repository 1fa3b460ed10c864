import RaftCore

/// A state in one file. Numbers are little endian; every checksum is CRC32C of the checksum before it (zero before the
/// head's) and what follows it here, so that a piece counts in its own place of its own file only.
///
///     file  = head piece* end
///     head  = "FLOTSTAT" checksum(4) version(4) length(4) body[length]
///     body  = term(8) index(8) length(4) group[length] membership hash?
///     hash  = algorithm(4) value(8)
///     piece = checksum(4) length(4) bytes[length]
///     end   = checksum(4) FFFFFFFF(4)
///
/// The membership is written as in the log. The hash, of everything that was applied, is there from version 2 on; a state
/// of which it is not known is written as version 1.
enum StateFile {
    static let version: UInt32 = 2
    static let magic = LogFormat.magic("FLOTSTAT")
    /// The name of the only file of a snapshot on its way.
    static let name = "state"
    static let pieceBytesMax = 1 << 30
    /// What is read or written at a time, unless a piece is larger.
    static let blockBytes = 256 << 10

    fileprivate static let endMark = UInt32.max
    fileprivate static let headByteCount = 20
    fileprivate static let pieceHeadByteCount = 8
    fileprivate static let hashByteCount = 12

    fileprivate static func checksum(_ bytes: UnsafeRawBufferPointer, after earlier: UInt32) -> UInt32 {
        var checksum = Checksum()
        withUnsafeBytes(of: earlier.littleEndian) { checksum.update($0) }
        checksum.update(bytes)
        return checksum.value
    }
}

/// What a ``StateFile`` says of itself.
struct StateHead: Equatable {
    var meta: SnapshotMeta
    var group: String
    /// A ``RollingHash`` of everything that was applied; nil if that is not known.
    var hash: UInt64?
}

/// Makes the bytes of a ``StateFile``, a block after the other.
struct StateFileEncoder {
    /// What is yet to be written; whoever has written it empties it.
    let block = Scratch(capacity: StateFile.blockBytes)
    /// The end is in ``block``, or was.
    private(set) var isAtEnd = false
    private var pieces: any StatePieces
    private var last: UInt32 = 0

    init(_ head: StateHead, pieces: any StatePieces) {
        self.pieces = pieces
        block.append(StateFile.magic)
        block.append(UInt32(0))
        block.append(head.hash == nil ? UInt32(1) : StateFile.version)
        block.append(UInt32(0))
        block.append(head.meta.last.term.rawValue)
        block.append(head.meta.last.index.rawValue)
        block.append(UInt32(head.group.utf8.count))
        block.append(text: head.group)
        RecordPayload.append(head.meta.configuration, to: block)
        if let hash = head.hash {
            block.append(UInt32(RollingHash.version))
            block.append(hash)
        }
        block.store(UInt32(block.count - StateFile.headByteCount), at: 16)
        seal(from: 8)
    }

    /// Fills ``block`` up to its usual size, or to the end.
    mutating func fill() throws(StateMachineError) {
        while block.count < StateFile.blockBytes, !isAtEnd {
            let start = block.count
            block.append(UInt32(0))
            if let piece = try pieces.next() {
                guard piece.count <= StateFile.pieceBytesMax else {
                    throw StateMachineError("a piece of the state has \(piece.count) bytes; at most 1 GiB is possible")
                }
                block.append(UInt32(piece.count))
                piece.withUnsafeBytes { block.append($0) }
            } else {
                block.append(StateFile.endMark)
                isAtEnd = true
            }
            seal(from: start)
        }
    }

    private mutating func seal(from start: Int) {
        last = StateFile.checksum(block[start + 4..<block.count], after: last)
        block.store(last, at: start)
    }
}

/// Reads a ``StateFile``, whose pieces it hands out again. Whatever is not as it was written is an error that says so.
struct StateFileReader: StatePieces {
    typealias Source = @Sendable (_ offset: Int, _ count: Int) throws(StateMachineError) -> Bytes

    /// What the file says it is.
    let head: StateHead
    private let read: Source
    private let blockBytes: Int
    /// Read ahead, and where in the file that begins.
    private var block: Bytes
    private var offset: Int
    private var last: UInt32
    private var isAtEnd = false

    /// Begins to read what `read` has; it gives fewer bytes than asked for only at the end of the file.
    init(blockBytes: Int = StateFile.blockBytes, _ read: @escaping Source) throws(StateMachineError) {
        self.read = read
        self.blockBytes = blockBytes
        block = try read(0, max(blockBytes, StateFile.headByteCount))
        guard block.count >= StateFile.headByteCount, block.little(UInt64.self, at: 0) == StateFile.magic else {
            throw StateFileReader.damaged("it does not begin as a saved state does")
        }
        let version = block.little(UInt32.self, at: 12)
        guard version <= StateFile.version else {
            throw StateMachineError("it has format \(version), which is newer than this program understands")
        }
        let end = StateFile.headByteCount + Int(block.little(UInt32.self, at: 16))
        if block.count < end, end <= StateFile.pieceBytesMax { block = try read(0, end) }
        last = block.little(at: 8)
        guard block.count >= end, block.checksum(of: 12..<end, after: 0) == last,
            let head = StateFileReader.decode(block.slice(from: 0, count: end), version: version)
        else { throw StateFileReader.damaged("its head is not what was written") }
        self.head = head
        offset = end
        block = block.suffix(from: end)
    }

    private static func decode(_ head: Bytes, version: UInt32) -> StateHead? {
        head.withUnsafeBytes { bytes in
            let fixed = StateFile.headByteCount + 20
            let end = bytes.count - (version < 2 ? 0 : StateFile.hashByteCount)
            guard end >= fixed else { return nil }
            let last = LogPosition(term: Term(bytes.little(at: 20)), index: LogIndex(bytes.little(at: 28)))
            let length = Int(bytes.little(UInt32.self, at: 36))
            guard length <= end - fixed else { return nil }
            let group = String(decoding: bytes.part(fixed..<fixed + length), as: UTF8.self)
            guard let configuration = RecordPayload.configuration(bytes.part(fixed + length..<end)) else {
                return nil
            }
            var decoded = StateHead(meta: SnapshotMeta(last: last, configuration: configuration), group: group)
            // one of another algorithm says nothing here
            if end < bytes.count, bytes.little(UInt32.self, at: end) == UInt32(RollingHash.version) {
                decoded.hash = bytes.little(at: end + 4)
            }
            return decoded
        }
    }

    /// The next piece; nil behind the last, once it is certain that this is the end.
    mutating func next() throws(StateMachineError) -> Bytes? {
        guard !isAtEnd else { return nil }
        try require(StateFile.pieceHeadByteCount)
        let length = block.little(UInt32.self, at: 4)
        let isEnd = length == StateFile.endMark
        guard isEnd || length <= StateFile.pieceBytesMax else {
            throw StateFileReader.damaged("a piece at \(offset) is not what was written")
        }
        let end = StateFile.pieceHeadByteCount + (isEnd ? 0 : Int(length))
        try require(end)
        let checksum = block.little(UInt32.self, at: 0)
        guard block.checksum(of: 4..<end, after: last) == checksum else {
            throw StateFileReader.damaged("a piece at \(offset) is not what was written")
        }
        // whoever keeps a piece must not keep the block with it
        let piece = block.slice(from: StateFile.pieceHeadByteCount, count: end - StateFile.pieceHeadByteCount).compacted
        block = block.suffix(from: end)
        offset += end
        last = checksum
        guard isEnd else { return piece }
        let rest = block.isEmpty ? try read(offset, 1) : block
        guard rest.isEmpty else {
            throw StateFileReader.damaged("it goes on behind its end")
        }
        isAtEnd = true
        return nil
    }

    private mutating func require(_ count: Int) throws(StateMachineError) {
        guard block.count < count else { return }
        block = try read(offset, max(count, blockBytes))
        guard block.count >= count else { throw StateFileReader.damaged("it ends at \(offset + block.count)") }
    }

    private static func damaged(_ what: String) -> StateMachineError { StateMachineError("it is damaged: \(what)") }
}

extension Bytes {
    fileprivate func little<T: FixedWidthInteger>(_ type: T.Type = T.self, at offset: Int) -> T {
        withUnsafeBytes { $0.little(at: offset) }
    }

    fileprivate func checksum(of range: Range<Int>, after earlier: UInt32) -> UInt32 {
        withUnsafeBytes { StateFile.checksum($0.part(range), after: earlier) }
    }
}
