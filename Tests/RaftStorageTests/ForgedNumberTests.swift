import RaftCore
import Testing

@testable import RaftStorage

/// Whole batches, checksums and all, with numbers that no log can have: what a bug or a hostile hand may leave behind.
@Suite("Write-ahead log: numbers that cannot be") struct ForgedNumberTests {
    /// A log with entry 1 of groups 1 and 2, then a batch with `record` and this sequence number.
    private func disk(with record: Record, sequence: UInt64? = nil) throws -> MemoryDisk {
        let disk = MemoryDisk(seed: 0)
        let log = try Opened(disk).log
        try log.write([1, 2].map { LogWrite(group: $0, entries: [data(1, "one")]) })
        let segment = try #require(try Manifest.load(from: disk)?.segments.first)
        var bytes = try #require(disk.contents(segmentName(1)))
        let last = try #require(
            bytes.withUnsafeBytes {
                BatchHeader.decode($0, at: LogPlace(segment: 1, offset: segment.firstOffset), identity: 7)
            })
        let body = Scratch()
        record.encodeHead(into: body)
        let place = LogPlace(segment: 1, offset: last.end)
        let header = BatchHeader(
            identity: 7, sequence: sequence ?? last.sequence + 1, place: place, proven: place,
            bodyByteCount: body.count, bodyChecksum: Checksum.of(body.bytes), recordCount: 1, ownCount: 0,
            previousCount: 0)
        let batch = Scratch()
        header.encode(own: [], previous: [], into: batch)
        batch.append(body.bytes)
        bytes.replaceSubrange(place.offset..<place.offset + batch.count, with: batch.bytes)
        disk.setContents(segmentName(1), bytes)
        return disk
    }

    private static func record(_ kind: RecordKind, _ term: Int64, _ index: Int64, group: LogGroup = 1) -> Record {
        Record(
            kind: kind, group: group, position: LogPosition(term: Term(term), index: LogIndex(index)),
            payload: UnsafeRawBufferPointer(start: nil, count: 0))
    }

    @Test(arguments: [
        (RecordKind.hardState, Int64(-1), Int64(0)), (.hardState, .max, 0), (.truncate, 0, .min), (.truncate, 0, -1),
        (.data, -1, 2), (.data, .max, 2), (.noOp, 1, .max), (.note, .min, 0),
    ])
    func recordsBeyondAllCountingHurtTheirGroup(kind: RecordKind, term: Int64, index: Int64) throws {
        let disk = try disk(with: ForgedNumberTests.record(kind, term, index))
        let opened = try Opened(disk)
        #expect(opened.damaged == [1])
        #expect(opened.groups[1]?.lastIndex == LogIndex(1))
        try opened.log.write([LogWrite(group: 2, entries: [data(2, "two")])])
        #expect(try Opened(disk).damaged == [1])
    }

    /// The first entry of a group may have any index, but one that others can follow.
    @Test func aFirstEntryBeyondAllCountingHurtsItsGroup() throws {
        for (term, index) in [(Int64(-1), Int64(1)), (1, .max), (.max, 1)] {
            let disk = try disk(with: ForgedNumberTests.record(.data, term, index, group: 3))
            #expect(try Opened(disk).damaged == [3])
        }
    }

    @Test(arguments: [UInt64.max, UInt64.max - 1, 1 << 63])
    func aBatchNumberBeyondAllCountingIsNone(sequence: UInt64) throws {
        let disk = try disk(with: ForgedNumberTests.record(.note, 0, 0), sequence: sequence)
        let opened = try Opened(disk)
        #expect(opened.damaged == [], "a torn tail: nothing proves that it was ever written")
        try opened.log.write([LogWrite(group: 1, entries: [data(2, "two")])])
        #expect(try Opened(disk).groups[1]?.lastIndex == LogIndex(2))
    }

    @Test func aListWithNumbersBeyondAllCountingIsUnreadable() throws {
        let entry = Manifest.Entry(number: 1, size: 1024, firstSequence: 1, firstOffset: 152)
        for change: (inout Manifest.Entry) -> Void in [
            { $0.firstSequence = .max }, { $0.number = UInt64(UInt32.max) },
        ] {
            var changed = entry
            change(&changed)
            let scratch = Scratch()
            Manifest(identity: 7, segments: [changed]).encode(into: scratch)
            guard case .unreadable = Manifest.decode(scratch.bytes) else {
                Issue.record("\(changed)")
                continue
            }
        }
    }
}
