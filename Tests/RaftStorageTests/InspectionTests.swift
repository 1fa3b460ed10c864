import RaftCore
import Testing

@testable import RaftStorage

@Suite("Write-ahead log: reading it offline") struct InspectionTests {
    @Test func wholeLogIsWholeAndCounted() throws {
        let sample = try SampleLog(sealed: true)
        let report = try LogInspection.verify(sample.disk)
        #expect(report.isWhole && report.findings.isEmpty && report.groups == sample.model.groups.count)
        var (batches, records) = (0, 0)
        try LogInspection.dump(sample.disk) { item in
            switch item {
            case .batch(_, _, _, _, _, let isIntact):
                batches += 1
                #expect(isIntact)
            case .record(let record):
                records += 1
                #expect(record.isIntact)
            case .segment: break
            case .unreadable: Issue.record("\(item)")
            }
        }
        #expect(records == report.records && records > 30)
        // opening seals are counted by the dump only
        #expect(batches == report.batches + report.segments)
    }

    @Test func everyFlippedBitIsFoundAsAStartFindsItAndNothingIsWritten() throws {
        let sample = try SampleLog(sealed: true)
        for segment in 1...sample.segmentCount {
            let name = segmentName(segment)
            for offset in stride(from: segment, to: contentEnd(try #require(sample.disk.contents(name))), by: 11) {
                let disk = sample.disk.copy()
                disk.flipBit(name, offset: offset, bit: offset % 8)
                let before = try disk.list().map { disk.contents($0) }
                let report = try LogInspection.verify(disk)
                try LogInspection.dump(disk) { _ in }
                #expect(try disk.list().map { disk.contents($0) } == before)
                let opened = try Opened(disk)
                #expect(report.hurt == opened.groups.compactMapValues(\.damage), "\(name) \(offset)")
                #expect(report.findings.map(\.description) == opened.findings)
            }
        }
    }

    @Test func shortAndTornLogsAreNotRepaired() throws {
        let sample = try SampleLog(sealed: false)
        let name = segmentName(sample.segmentCount)
        let end = contentEnd(try #require(sample.disk.contents(name)))
        let torn = sample.disk.copy()
        torn.flipBit(name, offset: end - 1)
        let report = try LogInspection.verify(torn)
        #expect(report.isWhole && report.findings.map(\.event) == ["tail-cut"])
        #expect(try LogInspection.verify(torn).findings == report.findings)
        let short = sample.disk.copy()
        short.shorten(name, to: end + 64)
        #expect(try LogInspection.verify(short).isWhole)
        #expect(try #require(short.contents(name)).count == end + 64)
    }

    @Test func brokenCheckpointIsTold() throws {
        let sample = try SampleLog(sealed: true)
        try Opened(sample.disk).log.checkpoint()
        #expect(try LogInspection.verify(sample.disk).findings.isEmpty)
        sample.disk.flipBit("CHECKPOINT", offset: 50)
        let report = try LogInspection.verify(sample.disk)
        #expect(report.isWhole && report.findings.map(\.event) == ["checkpoint-ignored"])
        #expect(sample.disk.exists("CHECKPOINT"))
    }

    @Test func noLogIsNoWholeLog() throws {
        #expect(throws: StorageError.self) { try LogInspection.verify(MemoryDisk(seed: 1)) }
        let sample = try SampleLog(sealed: true)
        sample.disk.lose("MANIFEST")
        #expect(throws: StorageError.self) { try LogInspection.verify(sample.disk) }
    }
}
