import RaftCore

/// Which kinds of record a group has in a batch.
struct RecordKinds: OptionSet {
    var rawValue: UInt32
}

/// What a batch says of one group, in its own header and again in the next one: enough to know who was hurt when
/// the batch is lost, and how far that group had come.
struct GroupSummary: Equatable {
    static let byteCount = 28

    var group: LogGroup
    var kinds: RecordKinds
    /// The group's last entry after the batch.
    var last: LogPosition
}

/// What stands before a batch's records: 88 fixed bytes with a checksum of their own, then the summaries. It names
/// its own place and the log's identity, so no payload and no copy of a log can pass for a batch.
struct BatchHeader: Equatable {
    static let fixedByteCount = 88

    var identity: UInt64
    /// Counts the batches of the log without a gap.
    var sequence: UInt64
    /// Where this header stands.
    var place: LogPlace
    /// Where the last completed sync ended: everything before it was durable when this batch was written.
    var proven: LogPlace
    var bodyByteCount: Int
    var bodyChecksum: UInt32
    /// A batch without records is a seal.
    var recordCount: Int
    var ownCount: Int
    var previousCount: Int
    /// Known when the header has been encoded.
    var summariesChecksum: UInt32 = 0

    var isSeal: Bool { recordCount == 0 }
    /// Where the records begin.
    var bodyOffset: Int {
        place.offset + BatchHeader.fixedByteCount + (ownCount + previousCount) * GroupSummary.byteCount
    }
    /// Where the next batch begins.
    var end: Int { LogFormat.aligned(bodyOffset + bodyByteCount) }

    /// The header of a batch without records.
    static func seal(
        identity: UInt64, sequence: UInt64, place: LogPlace, proven: LogPlace, repeating previousCount: Int
    ) -> BatchHeader {
        BatchHeader(
            identity: identity, sequence: sequence, place: place, proven: proven, bodyByteCount: 0,
            bodyChecksum: Checksum().value, recordCount: 0, ownCount: 0, previousCount: previousCount)
    }

    /// Bytes of a batch from its header to the start of the next.
    static func batchByteCount(body: Int, summaries: Int) -> Int {
        LogFormat.aligned(fixedByteCount + summaries * GroupSummary.byteCount + body)
    }

    /// Appends the fixed bytes and the summaries, with their checksums.
    func encode(
        own: ContiguousArray<GroupSummary>, previous: ContiguousArray<GroupSummary>, into scratch: Scratch
    ) {
        precondition(own.count == ownCount && previous.count == previousCount)
        let start = scratch.count
        scratch.append(LogFormat.batchMagic)
        scratch.append(UInt32(0))  // checksum of the summaries, below
        scratch.append(UInt32(0))  // checksum of the fixed bytes, below
        scratch.append(identity)
        scratch.append(sequence)
        scratch.append(place.segment)
        scratch.append(UInt64(place.offset))
        scratch.append(proven.segment)
        scratch.append(UInt64(proven.offset))
        scratch.append(UInt64(bodyByteCount))
        scratch.append(bodyChecksum)
        scratch.append(UInt32(recordCount))
        scratch.append(UInt32(ownCount))
        scratch.append(UInt32(previousCount))
        let summaries = scratch.count
        precondition(summaries - start == BatchHeader.fixedByteCount)
        own.encode(into: scratch)
        previous.encode(into: scratch)
        scratch.store(Checksum.of(scratch[summaries..<scratch.count]), at: start + 8)
        scratch.store(sealedChecksum(of: scratch[start..<summaries]), at: start + 12)
    }

    /// The header at `place`, if one stands there that was written for this place of this log.
    static func decode(_ segment: UnsafeRawBufferPointer, at place: LogPlace, identity: UInt64) -> BatchHeader? {
        guard place.offset + fixedByteCount <= segment.count, segment.little(at: place.offset) == LogFormat.batchMagic
        else { return nil }
        let bytes = segment.part(place.offset..<place.offset + fixedByteCount)
        guard bytes.little(at: 12) == sealedChecksum(of: bytes),
            bytes.little(at: 16) == identity,
            bytes.little(at: 32) == place.segment,
            bytes.little(at: 40) == UInt64(place.offset),
            bytes.little(UInt64.self, at: 24) < LogFormat.countBound,
            let provenOffset = Int(exactly: bytes.little(UInt64.self, at: 56)),
            let bodyByteCount = Int(exactly: bytes.little(UInt64.self, at: 64)),
            bodyByteCount <= segment.count
        else { return nil }
        let header = BatchHeader(
            identity: identity, sequence: bytes.little(at: 24), place: place,
            proven: LogPlace(segment: bytes.little(at: 48), offset: provenOffset), bodyByteCount: bodyByteCount,
            bodyChecksum: bytes.little(at: 72), recordCount: Int(bytes.little(UInt32.self, at: 76)),
            ownCount: Int(bytes.little(UInt32.self, at: 80)), previousCount: Int(bytes.little(UInt32.self, at: 84)),
            summariesChecksum: bytes.little(at: 8))
        return header.end <= segment.count ? header : nil
    }

    /// The summaries behind the fixed bytes; nil if they are damaged.
    func summaries(
        in segment: UnsafeRawBufferPointer
    ) -> (own: ContiguousArray<GroupSummary>, previous: ContiguousArray<GroupSummary>)? {
        let bytes = segment.part(place.offset + BatchHeader.fixedByteCount..<bodyOffset)
        guard Checksum.of(bytes) == summariesChecksum else { return nil }
        let all = (0..<ownCount + previousCount).map { GroupSummary(bytes, at: $0 * GroupSummary.byteCount) }
        return (ContiguousArray(all[..<ownCount]), ContiguousArray(all[ownCount...]))
    }

    /// Whether the records are what was written.
    func hasIntactBody(in segment: UnsafeRawBufferPointer) -> Bool {
        Checksum.of(segment.part(bodyOffset..<bodyOffset + bodyByteCount)) == bodyChecksum
            || planted("torn-batches-are-believed")
    }
}

extension GroupSummary {
    fileprivate init(_ bytes: UnsafeRawBufferPointer, at offset: Int) {
        group = bytes.little(at: offset)
        kinds = RecordKinds(rawValue: bytes.little(at: offset + 8))
        last = LogPosition(
            term: Term(bytes.little(at: offset + 12)), index: LogIndex(bytes.little(at: offset + 20)))
    }
}

extension ContiguousArray<GroupSummary> {
    fileprivate func encode(into scratch: Scratch) {
        let bytes = scratch.extend(by: count * GroupSummary.byteCount)
        var offset = 0
        for summary in self {
            bytes.store(summary.group, at: offset)
            bytes.store(summary.kinds.rawValue, at: offset + 8)
            bytes.store(summary.last.term.rawValue, at: offset + 12)
            bytes.store(summary.last.index.rawValue, at: offset + 20)
            offset += GroupSummary.byteCount
        }
    }
}
