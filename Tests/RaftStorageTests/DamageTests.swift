import RaftCore
import Testing

@testable import RaftStorage

@Suite("Write-ahead log: torn tails and damage") struct DamageTests {
    /// Everything undamaged is exactly as written; a group that lost entries only knows the rest, and its first write
    /// settles that; then the log goes on, and the next start comes to the same result.
    private func expectWholeOrReported(
        _ opened: Opened, _ disk: MemoryDisk, _ sample: SampleLog, _ what: String, goesOn: Bool
    ) throws {
        for (group, expected) in sample.model.groups {
            switch opened.groups[group]?.damage {
            case nil:
                var found = try opened.contents(of: group)
                if found.base != expected.base {
                    // a compaction is lost: that harms nobody
                    found.apply(LogWrite(group: group, start: expected.base.map { .compact($0) }))
                }
                #expect(found == expected, "group \(group), \(what)")
            case .entries(let debt, _)?:
                try expectOnceWritten(opened, group, sample, what)
                let found = try opened.contents(of: group)
                #expect(found.hardState == expected.hardState && found.note == expected.note, "\(group), \(what)")
                #expect(debt >= expected.last && debt >= found.debt ?? .zero, "group \(group), \(what)")
                #expect(throws: StorageError.self) { try opened.log.write([LogWrite(group: group, note: Bytes())]) }
            case .promises?:
                try expectOnceWritten(opened, group, sample, what)
                let write = LogWrite(group: group, debt: .zero, start: .reset(base(90, term: 90)))
                #expect(throws: StorageError.self) { try opened.log.write([write]) }
            }
        }
        guard goesOn, opened.damaged.count < sample.model.groups.count else { return }
        try expectSettled(opened, disk, what)
    }

    /// Writes what settles lost entries; what was recovered is what the next start finds.
    private func expectSettled(_ opened: Opened, _ disk: MemoryDisk, _ what: String) throws {
        let batch = [LogWrite(group: 77, entries: [data(1, "new")])]
        try opened.log.write(batch)
        #expect(
            try Opened(disk.copy()).groups.mapValues(\.damage)
                == opened.groups.mapValues(\.damage)
                .merging([77: nil]) { old, _ in old }, "\(what)")
        var model = Model().applying(batch)
        for (group, recovered) in opened.groups {
            guard case .entries(let debt, _)? = recovered.damage else { continue }
            model.groups[group] = try opened.contents(of: group)
            let next = LogPosition(term: debt.term, index: recovered.lastIndex.next)
            for write in [
                LogWrite(group: group, debt: debt),
                LogWrite(group: group, entries: [noOp(next.index.rawValue, term: next.term.rawValue)]),
            ] {
                try opened.log.write([write])
                model.apply([write])
            }
        }
        let again = try Opened(disk)
        #expect(try again.holds(model), "\(what)")
        #expect(again.damaged == opened.damaged.filter { model.groups[$0] == nil }, "\(what)")
    }

    /// What a damaged group still holds of entries is what it held at some time, or the beginning of that.
    private func expectOnceWritten(_ opened: Opened, _ group: LogGroup, _ sample: SampleLog, _ what: String) throws {
        let found = try opened.contents(of: group)
        let known = sample.models.contains { model in
            let held = model[group]
            return found.entries.isEmpty || (held.base == found.base && held.entries.starts(with: found.entries))
        }
        #expect(known, "group \(group), \(what)")
    }

    @Test func everyFlippedBitIsNoticedAndChargedOrHarmless() throws {
        let sample = try SampleLog(sealed: true)
        for segment in 1...sample.segmentCount {
            let name = segmentName(segment)
            let end = min(contentEnd(try #require(sample.disk.contents(name))) + 16, 1024)
            for offset in 0..<end {
                let disk = sample.disk.copy()
                disk.flipBit(name, offset: offset, bit: (offset * 5 + segment) % 8)
                let opened = try Opened(disk)
                #expect(!opened.findings.isEmpty || isPadding(sample, name, offset))
                try expectWholeOrReported(
                    opened, disk, sample, "\(name) offset \(offset)", goesOn: offset % 8 == 0)
            }
        }
    }

    /// Whether nothing is checked there: up to seven bytes between a batch and the next.
    private func isPadding(_ sample: SampleLog, _ name: String, _ offset: Int) -> Bool {
        guard let bytes = sample.disk.contents(name), bytes[offset] == 0 else { return false }
        let next = LogFormat.aligned(offset + 1)
        return bytes[offset..<next].allSatisfy { $0 == 0 }
    }

    @Test func everyFlippedBitOfAnUnsealedLogCostsAtMostTheLastBatch() throws {
        let sample = try SampleLog(sealed: false)
        let (segment, end) = sample.ends[sample.ends.count - 1]
        for offset in 0..<end {
            let disk = sample.disk.copy()
            disk.flipBit(segmentName(segment), offset: offset, bit: 5)
            let opened = try Opened(disk)
            for group in sample.model.groups.keys where opened.groups[group]?.damage == nil {
                let found = try opened.contents(of: group)
                let before = sample.models[sample.models.count - 2][group]
                #expect(found == sample.model[group] || found == before, "group \(group), offset \(offset)")
            }
        }
    }

    @Test func flippedBitOfTheManifestIsRefused() throws {
        let sample = try SampleLog(sealed: true)
        for offset in 0..<(try #require(sample.disk.contents("MANIFEST"))).count {
            let disk = sample.disk.copy()
            disk.flipBit("MANIFEST", offset: offset, bit: offset % 8)
            #expect(throws: StorageError.self, "offset \(offset)") { try Opened(disk) }
        }
    }

    @Test func lastSegmentZeroFromAnyOffsetRecoversWhatIsLeft() throws {
        for sealed in [false, true] {
            let sample = try SampleLog(sealed: sealed)
            let segment = sample.segmentCount
            let head = try firstOffset(sample, segment)
            for offset in 0..<1024 {
                let disk = sample.disk.copy()
                disk.zero(segmentName(segment), from: offset)
                let opened = try Opened(disk)
                if offset < head, !opened.damaged.isEmpty {
                    #expect(opened.damaged == [0, 1, 2, 5])
                    continue
                }
                let whole = sample.ends.filter { $0.segment < segment || $0.end <= offset }.count
                #expect(try opened.holds(sample.models[whole]), "offset \(offset)")
                #expect(opened.damaged.isEmpty)
            }
        }
    }

    @Test func earlierSegmentZeroFromAnyOffsetIsDamage() throws {
        let sample = try SampleLog(sealed: true)
        for offset in stride(from: 0, to: 1024, by: 3) {
            let disk = sample.disk.copy()
            disk.zero(segmentName(1), from: offset)
            try expectWholeOrReported(try Opened(disk), disk, sample, "offset \(offset)", goesOn: offset % 5 == 0)
        }
    }

    @Test func batchWrittenToAnotherPlaceIsNeverTakenForTheOneThatBelongsThere() throws {
        let sample = try SampleLog(sealed: true)
        // without the closing seal: a batch that nothing proves is the log's stated limit
        let batches = try batches(of: sample).dropLast()
        for batch in batches {
            for place in batches where place.file != batch.file || place.range.lowerBound != batch.range.lowerBound {
                guard place.range.lowerBound + batch.bytes.count <= 1024 else { continue }
                let disk = sample.disk.copy()
                var hurt = try #require(disk.contents(batch.file))
                hurt.replaceSubrange(batch.range, with: repeatElement(0, count: batch.bytes.count))
                disk.setContents(batch.file, hurt)
                var other = try #require(disk.contents(place.file))
                let start = place.range.lowerBound
                other.replaceSubrange(start..<start + batch.bytes.count, with: batch.bytes)
                disk.setContents(place.file, other)
                let what = "\(batch.file) \(batch.range) at \(place.file) \(start)"
                let opened = try Opened(disk)
                #expect(!opened.findings.isEmpty, "\(what)")
                // it may lie over more than one: then nobody can tell whom that hurt, and the node does not start
                if opened.findings.contains(where: { $0.hasSuffix("groups=all") }) {
                    for group in opened.damaged {
                        let write = LogWrite(group: group, debt: .zero, start: .reset(base(90, term: 90)))
                        #expect(throws: StorageError.self) { try opened.log.write([write]) }
                    }
                    continue
                }
                try expectWholeOrReported(opened, disk, sample, what, goesOn: false)
            }
        }
    }

    /// All batches of a log with their bytes, seals included, in order.
    private func batches(of sample: SampleLog) throws -> [(file: String, range: Range<Int>, bytes: [UInt8])] {
        let magic = Array("FLOTBTCH".utf8)
        return try (1...sample.segmentCount).flatMap { number in
            let name = segmentName(number)
            let content = try #require(sample.disk.contents(name))
            let starts = stride(from: 0, to: content.count, by: 8).filter { content[$0...].starts(with: magic) }
            let ends = starts.dropFirst() + [LogFormat.aligned(contentEnd(content))]
            return zip(starts, ends).map { (file: name, range: $0..<$1, bytes: Array(content[$0..<$1])) }
        }
    }

    @Test func shortenedSegmentsAreWholeOrDamaged() throws {
        let sample = try SampleLog(sealed: true)
        for segment in 1...sample.segmentCount {
            let name = segmentName(segment)
            let end = contentEnd(try #require(sample.disk.contents(name)))
            for size in Array(0..<end + 20) + [1000, 1023] {
                let disk = sample.disk.copy()
                disk.shorten(name, to: size)
                let opened = try Opened(disk)
                // the last bytes of a batch may be zero themselves
                if size > LogFormat.aligned(end) + 8 { #expect(opened.damaged.isEmpty, "\(name) size \(size)") }
                try expectWholeOrReported(opened, disk, sample, "\(name) size \(size)", goesOn: size % 8 == 0)
                if opened.damaged.isEmpty, segment == sample.segmentCount {
                    #expect(try #require(disk.contents(name)).count == 1024)
                }
            }
        }
    }

    @Test func missingSegmentIsDamage() throws {
        let sample = try SampleLog(sealed: true)
        for segment in 1...sample.segmentCount {
            let disk = sample.disk.copy()
            disk.lose(segmentName(segment))
            let opened = try Opened(disk)
            #expect(opened.damaged == [0, 1, 2, 5])
            #expect(try #require(opened.groups[1]?.damage).reason.contains(segmentName(segment)))
            #expect(throws: StorageError.self) { try opened.log.write([LogWrite(group: 1, hardState: state(99))]) }
            #expect(try Opened(disk).damaged == [0, 1, 2, 5])
        }
    }

    @Test func damageNamesFileAndOffsetAndHurtsOnlyItsGroups() throws {
        let sample = try SampleLog(sealed: true)
        // the payload "zwei" of group 2
        let bytes = try #require(sample.disk.contents(segmentName(1)))
        let place = try #require(bytes.firstRange(of: Array("zwei".utf8))).lowerBound
        sample.disk.flipBit(segmentName(1), offset: place)
        let opened = try Opened(sample.disk)
        #expect(opened.damaged == [2])
        let batch = try #require(sample.ends.first).end
        let damage = try #require(opened.groups[2]?.damage).reason
        #expect(damage.hasPrefix("\(segmentName(1)) is damaged at offset "))
        let finding = try #require(opened.findings.first)
        #expect(finding.hasPrefix("wal event=damage file=\(segmentName(1)) offset="))
        #expect(finding.hasSuffix(" groups=2"))
        // it keeps the entries it had before, and everything else of what came later
        #expect(try opened.contents(of: 2).entries == sample.models[2][2].entries)
        #expect(opened.groups[2]?.hardState == sample.model[2].hardState)
        #expect(batch < place)
        #expect(throws: StorageError.self) {
            try opened.log.entries(of: 2, from: LogIndex(2), count: 1, maxBytes: .max)
        }
        for group in [0, 1] as [LogGroup] { #expect(try opened.contents(of: group) == sample.model[group]) }
    }

    @Test func lostHeaderIsChargedByTheNextOne() throws {
        let sample = try SampleLog(sealed: true)
        // the third batch, of group 2 alone
        let offset = LogFormat.aligned(sample.ends[1].end)
        sample.disk.flipBit(segmentName(sample.ends[1].segment), offset: offset + 30)
        #expect(try Opened(sample.disk).damaged == [2])
    }

    @Test func twoLostHeadersInARowHurtEveryGroup() throws {
        let sample = try SampleLog(sealed: true)
        for batch in [0, 1] {
            sample.disk.flipBit(segmentName(1), offset: LogFormat.aligned(sample.ends[batch].end) + 30)
        }
        #expect(try Opened(sample.disk).damaged == [0, 1, 2, 5])
    }

    @Test func readNoticesRotAfterTheStart() throws {
        let sample = try SampleLog(sealed: true)
        let opened = try Opened(sample.disk)
        let name = segmentName(1)
        let bytes = try #require(sample.disk.contents(name))
        sample.disk.flipBit(name, offset: try #require(bytes.firstRange(of: Array("zwei".utf8))).lowerBound)
        do throws(StorageError) {
            _ = try opened.log.entries(of: 2, from: LogIndex(1), count: 9, maxBytes: .max)
            Issue.record("rot was not noticed")
        } catch {
            guard case .damaged(name, _, _) = error else {
                Issue.record("\(error)")
                return
            }
        }
        // the others are served
        #expect(try opened.contents(of: 1) == sample.model[1])
    }

    @Test func payloadThatLooksLikeABatchIsNone() throws {
        // a copy of the log's own bytes as a payload, torn so that its real header is gone
        let sample = try SampleLog(sealed: true)
        let copied = try #require(sample.disk.contents(segmentName(1)))
        let disk = MemoryDisk(seed: 0)
        let log = try Opened(disk, segmentBytes: 4096).log
        try log.write(SampleLog.batches[0])
        let before = contentEnd(try #require(disk.contents(segmentName(1))))
        try log.write([LogWrite(group: 9, entries: [data(1, Bytes([0, 0, 0, 0] + copied))])])
        disk.flipBit(segmentName(1), offset: LogFormat.aligned(before))
        let opened = try Opened(disk, segmentBytes: 4096)
        #expect(opened.groups.keys.sorted() == [0] && opened.damaged.isEmpty)
    }

    /// Sets the version in the head of a file.
    private func setVersion(_ version: UInt8, of name: String, on disk: MemoryDisk) throws {
        var bytes = try #require(disk.contents(name))
        let sealed = name == "MANIFEST" ? bytes.count : SegmentHeader.byteCount
        bytes[8] = version
        let checksum = bytes.withUnsafeBytes { sealedChecksum(of: $0.part(0..<sealed)) }
        for byte in 0..<4 { bytes[12 + byte] = UInt8(truncatingIfNeeded: checksum >> (8 * UInt32(byte))) }
        disk.setContents(name, bytes)
    }

    @Test func newerFormatsAreRefused() throws {
        for name in ["MANIFEST", segmentName(1)] {
            let sample = try SampleLog(sealed: true)
            try setVersion(3, of: name, on: sample.disk)
            #expect(throws: StorageError.newerFormat(file: name, found: 3, known: 2)) { try Opened(sample.disk) }
        }
    }

    @Test func olderFormatsAreReadAndGoneOnWith() throws {
        let sample = try SampleLog(sealed: true)
        for name in try sample.disk.list() { try setVersion(1, of: name, on: sample.disk) }
        let opened = try Opened(sample.disk)
        #expect(try opened.holds(sample.model) && opened.findings == [])
        #expect(sample.disk.contents("MANIFEST")?[8] == 2, "an older program refuses it from now on")
        let batch = [LogWrite(group: 9, entries: [data(1, String(repeating: "x", count: 900))]), LogWrite(dropping: 1)]
        try opened.log.write(batch)
        #expect(try Opened(sample.disk).holds(sample.model.applying(batch)))
    }

    @Test func lostManifestIsNoNewLog() throws {
        let sample = try SampleLog(sealed: true)
        sample.disk.lose("MANIFEST")
        #expect(throws: StorageError.self) { try Opened(sample.disk) }
    }

    @Test func oldManifestIsNoticed() throws {
        let sample = try SampleLog(sealed: true)
        let disk = MemoryDisk(seed: 0)
        let log = try Opened(disk).log
        try log.write(SampleLog.batches[0])
        sample.disk.setContents("MANIFEST", try #require(disk.contents("MANIFEST")))
        #expect(throws: StorageError.self) { try Opened(sample.disk) }
    }

    private func firstOffset(_ sample: SampleLog, _ segment: Int) throws -> Int {
        let manifest = try #require(try Manifest.load(from: sample.disk))
        return manifest.segments[segment - 1].firstOffset
    }

    @Test func unlistedSegmentWithUnreadableBatchesIsNoLeftover() throws {
        let disk = MemoryDisk(seed: 0)
        let log = try Opened(disk).log
        try log.write(SampleLog.batches[0])
        let first = try #require(try Manifest.load(from: disk)?.segments.first).firstOffset
        try Manifest(identity: 7).store(on: disk)
        // the seal, and the batch behind it
        for offset in [SegmentHeader.byteCount, first] {
            let copy = disk.copy()
            copy.flipBit(segmentName(1), offset: offset + 30)
            #expect(throws: StorageError.self, "\(offset)") { try Opened(copy) }
            #expect(copy.exists(segmentName(1)))
        }
    }
}
