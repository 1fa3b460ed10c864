import RaftCore
import Testing

@testable import RaftStorage

@Suite("Write-ahead log: the end of the log") struct TailTests {
    /// A log of one segment with one batch per group 1 … 4, the last unsealed, and where its batches are.
    private struct Log {
        let disk = MemoryDisk(seed: 0)
        let name = segmentName(1)
        var headers: [BatchHeader] = []

        init() throws {
            let log = try open().log
            for group in 1...4 as ClosedRange<LogGroup> {
                try log.write([LogWrite(group: group, entries: [data(1, "payload of \(group)")])])
            }
            var offset = SegmentHeader.byteCount
            while let header = self.header(at: offset) {
                headers.append(header)
                offset = header.end
            }
            #expect(headers.map(\.recordCount) == [0, 1, 1, 1, 1])
        }

        func open() throws -> Opened { try Opened(disk, segmentBytes: 4096) }

        func header(at offset: Int) -> BatchHeader? {
            guard let bytes = disk.contents(name) else { return nil }
            return bytes.withUnsafeBytes {
                BatchHeader.decode($0, at: LogPlace(segment: 1, offset: offset), identity: 7)
            }
        }

        func breakBody(of batch: Int) { disk.flipBit(name, offset: headers[batch].bodyOffset + 40) }
        func breakHeader(of batch: Int) { disk.flipBit(name, offset: headers[batch].place.offset + 30) }
        func breakSummaries(of batch: Int) {
            disk.flipBit(name, offset: headers[batch].place.offset + BatchHeader.fixedByteCount)
        }
    }

    @Test func tornTailIsCutToZeros() throws {
        let log = try Log()
        log.breakBody(of: 4)
        let opened = try log.open()
        #expect(opened.damaged.isEmpty && opened.groups.keys.sorted() == [1, 2, 3])
        let start = log.headers[4].place.offset
        #expect(opened.findings.count == 1)
        #expect(opened.findings[0].hasPrefix("wal event=tail-cut file=\(log.name) offset=\(start) "))
        #expect(try #require(log.disk.contents(log.name))[start...].allSatisfy { $0 == 0 })
        // its number and its place are used again
        try opened.log.write([LogWrite(group: 4, entries: [data(1, "again")])])
        #expect(log.header(at: start)?.sequence == log.headers[4].sequence)
        #expect(try log.open().groups.keys.sorted() == [1, 2, 3, 4])
    }

    @Test func tornHeaderIsCutToo() throws {
        let log = try Log()
        log.breakHeader(of: 4)
        let opened = try log.open()
        #expect(opened.damaged.isEmpty && opened.groups.keys.sorted() == [1, 2, 3])
    }

    @Test func batchWithSomethingBehindItIsNoTail() throws {
        let log = try Log()
        log.breakBody(of: 3)
        log.breakHeader(of: 4)
        let opened = try log.open()
        #expect(opened.damaged == [0, 1, 2])
        #expect(try log.open().damaged == [0, 1, 2])
    }

    @Test func batchNamesItsGroupsWhenTheNextOneCannot() throws {
        let log = try Log()
        log.breakBody(of: 2)
        log.breakSummaries(of: 3)
        let opened = try log.open()
        #expect(opened.damaged == [2])
        #expect(try opened.contents(of: 3).entries.count == 1)
    }

    @Test func nobodyNamesTheGroups() throws {
        let log = try Log()
        log.breakHeader(of: 2)
        log.breakSummaries(of: 3)
        #expect(try log.open().damaged == [0, 1, 3, 4])
    }

    @Test func lostSummaryIsMadeAgainFromTheRecords() throws {
        let log = try Log()
        log.breakSummaries(of: 4)
        let opened = try log.open()
        #expect(opened.damaged.isEmpty && opened.groups.count == 4)
        opened.log.sealIfIdle()
        log.breakHeader(of: 4)
        #expect(try log.open().damaged == [4])
    }

    @Test func runOfBrokenBodiesIsChargedOneByOne() throws {
        let log = try Log()
        log.breakBody(of: 1)
        log.breakBody(of: 2)
        let opened = try log.open()
        #expect(opened.damaged == [1, 2])
        for (group, batch) in [(1, 1), (2, 2)] as [(LogGroup, Int)] {
            let damage = try #require(opened.groups[group]?.damage).reason
            #expect(damage.contains("at offset \(log.headers[batch].place.offset):"))
        }
    }

    @Test func batchWrittenAheadOfASyncProvesNothing() throws {
        let log = try Log()
        // as if the last two batches had been under way at once
        var bytes = try #require(log.disk.contents(log.name))
        let ahead = log.headers[4].place.offset
        let proven = UInt64(log.headers[3].place.offset)
        for byte in 0..<8 { bytes[ahead + 56 + byte] = UInt8(truncatingIfNeeded: proven >> (8 * UInt64(byte))) }
        let checksum = bytes.withUnsafeBytes { sealedChecksum(of: $0.part(ahead..<ahead + BatchHeader.fixedByteCount)) }
        for byte in 0..<4 { bytes[ahead + 12 + byte] = UInt8(truncatingIfNeeded: checksum >> (8 * UInt32(byte))) }
        log.disk.setContents(log.name, bytes)
        #expect(try log.open().groups.count == 4)
        log.breakBody(of: 3)
        let opened = try log.open()
        #expect(opened.damaged.isEmpty && opened.groups.keys.sorted() == [1, 2])
    }

    @Test func damagedGroupStaysDamagedWhateverComesLater() throws {
        let log = try Log()
        log.breakBody(of: 2)
        for number in 1...3 as ClosedRange<Int64> {
            let opened = try log.open()
            #expect(opened.damaged == [2])
            try opened.log.write([LogWrite(group: 1, entries: [data(1 + number, "more")])])
            try opened.log.close()
        }
        #expect(try log.open().groups[1]?.lastIndex == LogIndex(4))
    }
}
