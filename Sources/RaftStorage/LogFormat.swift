/// What never changes without a new ``version``: it shapes the disk. The article "The format of the log" has the
/// grammar; `GoldenBytesTests` pins it.
enum LogFormat {
    /// The newest format this program writes and reads.
    static let version = 2
    static let manifestName = "MANIFEST"
    /// What ``WriteAheadLog/pulse()`` overwrites.
    static let pulseName = "PULSE"
    /// The manifest while it is being written.
    static let manifestDraftName = "MANIFEST.new"
    static let checkpointName = "CHECKPOINT"
    /// The checkpoint while it is being written.
    static let checkpointDraftName = "CHECKPOINT.new"
    /// Batches begin at multiples of this, so that a search for one has few places to look at.
    static let alignment = 8
    /// Sequence numbers, terms and indexes stay below: beyond what counting reaches, with room to count on.
    static let countBound = 1 << 62

    static let manifestMagic = magic("FLOTMANI")
    static let segmentMagic = magic("FLOTSEGM")
    static let batchMagic = magic("FLOTBTCH")
    static let checkpointMagic = magic("FLOTCKPT")

    static func magic(_ text: StaticString) -> UInt64 {
        precondition(text.utf8CodeUnitCount == 8)
        return UnsafeRawBufferPointer(start: text.utf8Start, count: 8).little(at: 0)
    }

    static func aligned(_ offset: Int) -> Int { (offset + alignment - 1) / alignment * alignment }

    private static let segmentSuffix = ".log"

    /// `number` in twenty digits, so that names sort as numbers do.
    static func segmentName(_ number: UInt64) -> String {
        let digits = String(number)
        return String(repeating: "0", count: 20 - digits.utf8.count) + digits + segmentSuffix
    }

    /// The segment that `name` belongs to; nil if it is no segment's name.
    static func segmentNumber(of name: String) -> UInt64? {
        guard name.utf8.count == 24, name.hasSuffix(segmentSuffix) else { return nil }
        return UInt64(name.dropLast(segmentSuffix.utf8.count))
    }
}

/// A place in the log; places are ordered as they are written.
struct LogPlace: Equatable, Comparable {
    var segment: UInt64
    /// Bytes from the start of the segment.
    var offset: Int

    /// Before everything.
    static let start = LogPlace(segment: 0, offset: 0)

    static func < (left: LogPlace, right: LogPlace) -> Bool {
        left.segment != right.segment ? left.segment < right.segment : left.offset < right.offset
    }
}

/// How reading a checksummed header ended.
enum Decoded<Header> {
    case read(Header)
    /// Whole, but of a format that is not known here.
    case newer(version: Int)
    case unreadable
}

/// The first bytes of a segment. Version and checksum keep their places in every later format.
struct SegmentHeader: Equatable {
    static let byteCount = 64

    var identity: UInt64
    var number: UInt64
    /// Bytes of the whole segment.
    var size: Int
    /// Sequence number of the first batch.
    var firstSequence: UInt64

    func encode(into scratch: Scratch) {
        let start = scratch.count
        scratch.append(LogFormat.segmentMagic)
        scratch.append(UInt32(LogFormat.version))
        scratch.append(UInt32(0))
        scratch.append(identity)
        scratch.append(number)
        scratch.append(UInt64(size))
        scratch.append(firstSequence)
        scratch.append(zeros: SegmentHeader.byteCount - (scratch.count - start))
        scratch.store(sealedChecksum(of: scratch[start..<scratch.count]), at: start + 12)
    }

    static func decode(_ bytes: UnsafeRawBufferPointer) -> Decoded<SegmentHeader> {
        guard bytes.count >= byteCount else { return .unreadable }
        let bytes = bytes.part(0..<byteCount)
        guard bytes.little(at: 0) == LogFormat.segmentMagic, bytes.little(at: 12) == sealedChecksum(of: bytes)
        else { return .unreadable }
        let version: UInt32 = bytes.little(at: 8)
        guard version <= LogFormat.version else { return .newer(version: Int(version)) }
        guard let size = Int(exactly: bytes.little(UInt64.self, at: 32)) else { return .unreadable }
        return .read(
            SegmentHeader(
                identity: bytes.little(at: 16), number: bytes.little(at: 24), size: size,
                firstSequence: bytes.little(at: 40)))
    }
}

/// The checksum of a header whose bytes 12 ..< 16 hold that checksum.
func sealedChecksum(of bytes: UnsafeRawBufferPointer) -> UInt32 {
    var checksum = Checksum()
    checksum.update(bytes.part(0..<12))
    checksum.update(bytes.part(16..<bytes.count))
    return checksum.value
}
