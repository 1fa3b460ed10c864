import RaftCore

/// Reads a log after a restart: in one pass over the segments it tells what is whole, what is a torn tail and what
/// is damage.
///
/// 1. Batches are numbered without a gap, and a header is believed only if it names its own place and this log. So
///    whatever was lost before a readable header is noticed, by number if not by sight.
/// 2. A batch that cannot be read is a *wound*. A later header, or a listed segment, that was written after the
///    wounded place had been synced proves that it is damage; it is charged to the groups that the batch's own
///    header names, else to those the next header repeats, else to every group.
/// 3. A wound that nothing proves is the torn tail and is cut, unless a crash cannot have caused it: the file is
///    missing or short, or there is something behind the end of the wounded batch, which begins only after a sync; or
///    the checkpoint, which knows only what was durable, includes the batch.
/// 4. In a batch whose records are broken, those in front of the first broken one count.
/// 5. What a charged group has lost is known at the end, since later records may make it good: see ``Trouble``.
struct Recovery {
    /// A stretch that cannot be read.
    private struct Wound {
        var place: LogPlace
        var reason: String
        /// Number of the first batch that is missing or broken.
        var sequence: UInt64
        /// What that batch's own header says of its groups, if it can be read.
        var groups: ContiguousArray<GroupSummary>?
        /// That batch's header, if it can be read, and where its records are.
        var batch: (header: BatchHeader, image: SegmentImage)?
        /// Where that batch ends, if that is known.
        var end: Int?
        /// Whether no crash can have caused it.
        var isNoTail = false
    }

    private let disk: any Disk
    private let identity: UInt64
    private let payloads = PayloadReader()
    private var wound: Wound?
    private var image: SegmentImage?
    /// Of the last batch that was read or whose groups are known.
    private(set) var lastSummaries: ContiguousArray<GroupSummary> = []
    /// The last batch, if it is whole.
    private(set) var lastBatch: BatchHeader?
    private(set) var segments: [Segment] = []
    private(set) var groups: [LogGroup: GroupLog] = [:]
    private var troubles: [LogGroup: Trouble] = [:]
    /// Known when the recovery has finished.
    private(set) var damages = Damages()
    /// Where the next batch belongs.
    private(set) var end = LogPlace.start
    /// The number of the next batch.
    private(set) var nextSequence: UInt64 = 1
    private(set) var findings: [LogFinding] = []
    /// Intact ones.
    private(set) var batchCount = 0
    /// Of these.
    private(set) var recordCount = 0
    /// Nothing is cut, restored or written again.
    private let isReadOnly: Bool

    /// Whether a segment has been read.
    private var hasBegun = false
    /// Of the groups in the checkpoint: the last batch that is included there.
    private var included: [LogGroup: UInt64] = [:]
    /// The highest of these.
    private var lastIncluded: UInt64 = 0
    /// Segments before this one are not read: the checkpoint includes them. Nil: there is none.
    let checkpointSegment: UInt64?

    /// A recovery that begins with what the checkpoint, if there is one, says.
    init(disk: any Disk, identity: UInt64, checkpoint: Checkpoint? = nil, isReadOnly: Bool = false) {
        self.isReadOnly = isReadOnly
        self.disk = disk
        self.identity = identity
        checkpointSegment = checkpoint?.segment
        guard let checkpoint else { return }
        groups.reserveCapacity(checkpoint.parts.count)
        included.reserveCapacity(checkpoint.parts.count)
        for part in checkpoint.parts {
            groups[part.log.group] = part.log
            included[part.log.group] = part.sequence
            lastIncluded = max(lastIncluded, part.sequence)
        }
    }

    /// Whether the checkpoint has what batch `sequence` says of a group.
    private func isIncluded(_ sequence: UInt64, of group: LogGroup) -> Bool {
        sequence <= lastIncluded && sequence <= included[group] ?? 0
    }

    /// Every group that was seen, or is known to have been there. The node's own is among them if it may have been.
    var recoveredGroups: [LogGroup: RecoveredGroup] {
        var result: [LogGroup: RecoveredGroup] = [:]
        for (group, log) in groups { result[group] = log.recovered(damage: damages.cost(of: group)) }
        if damages.ofAll != nil, result[0] == nil { result[0] = RecoveredGroup(damage: damages.cost(of: 0)) }
        return result
    }

    /// Reads the next listed segment.
    mutating func read(_ entry: Manifest.Entry) throws(StorageError) {
        // the numbers go on in the segment now entered: they tell what the end of a short one before it held
        try restoreSize()
        let segment: Segment
        do throws(DiskError) {
            segment = try Segment.open(entry, on: disk)
            image = nil
            if let file = segment.file, entry.number >= checkpointSegment ?? 0 {
                image = try SegmentImage(of: file, entry: entry)
            }
        } catch {
            throw .disk(error)
        }
        segments.append(segment)
        if let checkpointSegment, entry.number < checkpointSegment { return }
        guard let image else {
            enter(entry, seal: nil, image: nil)
            wound = Wound(
                place: LogPlace(segment: entry.number, offset: 0), reason: "the file is missing",
                sequence: nextSequence, isNoTail: true)
            return
        }
        try readHead(of: image)
        readBatches(of: image)
    }

    /// Decides about the end of the log, cuts a torn tail, and writes what is not proven to be on the device again.
    mutating func finish() throws(StorageError) {
        defer { image = nil }
        if let wound { try decide(wound) } else { try checkEnd() }
        settleGroups()
        try rewriteLastBatch()
    }
}

// MARK: - Reading

extension Recovery {
    private mutating func readHead(of image: SegmentImage) throws(StorageError) {
        let entry = image.entry
        let name = LogFormat.segmentName(entry.number)
        let seal = image.header(at: SegmentHeader.byteCount, identity: identity)
            .flatMap { $0.sequence == entry.firstSequence && $0.end == entry.firstOffset ? $0 : nil }
        enter(entry, seal: seal, image: image)
        let expected = SegmentHeader(
            identity: identity, number: entry.number, size: entry.size, firstSequence: entry.firstSequence)
        switch SegmentHeader.decode(image.bytes) {
        case .newer(let version):
            throw .newerFormat(file: name, found: version, known: LogFormat.version)
        case .read(expected):
            if seal?.summaries(in: image.bytes) == nil {
                find("opening seal is unreadable", SegmentHeader.byteCount, in: name)
            }
        case .read, .unreadable:
            find("segment header is unreadable", 0, in: name)
            guard seal == nil else { break }
            // nothing vouches for this file; what stands further behind may tell that nothing is missing
            wound = Wound(
                place: LogPlace(segment: entry.number, offset: 0), reason: "the start of the segment is unreadable",
                sequence: nextSequence, isNoTail: true)
        }
    }

    /// Everything before a listed segment was durable when it was listed.
    private mutating func enter(_ entry: Manifest.Entry, seal: BatchHeader?, image: SegmentImage?) {
        let previous = image.flatMap { seal?.summaries(in: $0.bytes)?.previous }
        if !hasBegun {
            hasBegun = true
            nextSequence = entry.firstSequence
        } else {
            settle(before: entry.firstSequence, previous: previous)
        }
        nextSequence = entry.firstSequence + 1
        lastSummaries = []
        lastBatch = seal
        end = LogPlace(segment: entry.number, offset: entry.firstOffset)
    }

    private mutating func readBatches(of image: SegmentImage) {
        while end.offset < image.contentEnd {
            guard let header = image.header(at: end.offset, identity: identity), header.sequence >= nextSequence else {
                injure("no batch header can be read", sequence: nextSequence)
                let next = image.nextHeader(
                    from: end.offset + LogFormat.alignment, sequence: nextSequence, identity: identity)
                guard let next else { return }
                end.offset = next.place.offset
                continue
            }
            end.offset = header.end
            if let open = wound, header.proven <= open.place {
                // a writer ahead of its syncs: this batch proves nothing and is part of the tail, and so may be
                // whatever stands behind it
                wound?.end = nil
                continue
            }
            read(header, in: image)
        }
    }

    private mutating func read(_ header: BatchHeader, in image: SegmentImage) {
        let summaries = header.summaries(in: image.bytes)
        if header.sequence > nextSequence { injure("batches are missing", sequence: nextSequence, at: header.place) }
        settle(before: header.sequence, previous: summaries?.previous)
        nextSequence = header.sequence + 1
        if summaries == nil {
            let name = LogFormat.segmentName(header.place.segment)
            find("summary of a batch is unreadable", header.place.offset, in: name)
        }
        guard header.hasIntactBody(in: image.bytes), let records = image.records(of: header) else {
            lastBatch = nil
            injure(
                "the checksum of a batch does not match", sequence: header.sequence, at: header.place,
                groups: summaries?.own, batch: (header, image))
            return
        }
        apply(records, of: header, in: image)
        batchCount += 1
        recordCount += records.count
        lastBatch = header
        lastSummaries = summaries?.own ?? summarized(records)
    }

    private mutating func apply(
        _ records: [(offset: Int, record: Record)], of header: BatchHeader, in image: SegmentImage
    ) {
        for (offset, record) in records where !isIncluded(header.sequence, of: record.group) {
            let place = LogPlace(segment: image.entry.number, offset: offset)
            if !apply(record, at: place) { chargeMisfit(record, at: place) }
        }
    }

    /// Adds a record to its group; false if it does not fit there.
    private mutating func apply(_ record: Record, at place: LogPlace) -> Bool {
        if record.kind == .dropped {
            drop(record.group)
            return true
        }
        let log = log(of: record.group)
        guard record.hasCountedPosition else { return false }
        if !troubles.isEmpty, var trouble = troubles[record.group] {
            trouble.meet(record, entries: &log.entries)
            troubles[record.group] = trouble.isOver ? nil : trouble
        }
        let location = RecordLocation(segment: place.segment, offset: place.offset, byteCount: record.byteCount)
        switch record.kind {
        case .hardState:
            guard let vote = payloads.vote(record.payload) else { return false }
            let state = HardState(term: record.position.term, vote: vote)
            log.hardState = Placed(value: state, location: location)
        case .note:
            log.note = Placed(value: Bytes(copying: record.payload), location: location)
        case .debt:
            log.debt = Placed(value: record.position, location: location)
        case .debtPaid:
            log.debt = nil
        case .promisesLost where record.payload.isEmpty:
            log.loss = nil
        case .promisesLost:
            guard let loss = RecordPayload.damage(record.payload) else { return false }
            log.loss = Placed(value: loss, location: location)
        case .dropped: break
        case .truncate, .compact, .reset, .data, .noOp, .configuration:
            return log.entries.apply(record, at: location, payloads)
        }
        return true
    }

    private mutating func drop(_ group: LogGroup) {
        groups[group] = nil
        troubles[group] = nil
    }

    private mutating func log(of group: LogGroup) -> GroupLog {
        if let log = groups[group] { return log }
        let log = GroupLog(group: group)
        groups[group] = log
        return log
    }

    /// What the header should have said of an intact batch.
    private func summarized(_ records: [(offset: Int, record: Record)]) -> ContiguousArray<GroupSummary> {
        var summaries: ContiguousArray<GroupSummary> = []
        for (_, record) in records {
            if let slot = summaries.firstIndex(where: { $0.group == record.group }) {
                summaries[slot].kinds.insert(record.kind.inSummary)
            } else {
                let last = groups[record.group]?.entries.runs.last ?? .zero
                summaries.append(GroupSummary(group: record.group, kinds: record.kind.inSummary, last: last))
            }
        }
        return summaries
    }
}

// MARK: - Charging

extension Recovery {
    /// Notes a wound at `place`, or where the log ends so far, unless an earlier one is open.
    private mutating func injure(
        _ reason: String, sequence: UInt64, at place: LogPlace? = nil, groups: ContiguousArray<GroupSummary>? = nil,
        batch: (header: BatchHeader, image: SegmentImage)? = nil
    ) {
        guard wound == nil else { return }
        wound = Wound(
            place: place ?? self.end, reason: reason, sequence: sequence, groups: groups, batch: batch,
            end: batch?.header.end)
    }

    /// The batches up to number `sequence` were durable: charges what is missing of them. `previous` is what the
    /// batch numbered `sequence` repeats of the one before it.
    private mutating func settle(before sequence: UInt64, previous: ContiguousArray<GroupSummary>?) {
        if wound == nil, sequence > nextSequence { injure("batches are missing", sequence: nextSequence) }
        guard let wound else { return }
        self.wound = nil
        let damage = Damage(
            file: LogFormat.segmentName(wound.place.segment), offset: wound.place.offset, reason: wound.reason)
        guard sequence > wound.sequence else {
            // the numbers go on: nothing that was ever written is missing
            find(wound.reason, wound.place.offset, in: damage.file)
            return
        }
        if sequence == wound.sequence + 1, let hurt = wound.groups ?? previous {
            if let (header, image) = wound.batch { apply(image.intactRecords(of: header), of: header, in: image) }
            for summary in hurt where !isIncluded(wound.sequence, of: summary.group) { charge(summary, damage) }
            lastSummaries = hurt
            let list = hurt.map { "\($0.group)" }.joined(separator: ",")
            find(wound.reason, wound.place.offset, in: damage.file, event: "damage", rest: " groups=\(list)")
        } else {
            chargeAll(damage)
        }
    }

    /// A record that is intact but makes no sense where it stands: it is as good as lost.
    private mutating func chargeMisfit(_ record: Record, at place: LogPlace) {
        let file = LogFormat.segmentName(place.segment)
        let last = groups[record.group]?.entries.runs.last ?? .zero
        let reason = "the \(record.kind) record \(record.position) does not fit behind entry \(last)"
        let lost = GroupSummary(group: record.group, kinds: record.kind.inSummary, last: record.position)
        charge(lost, Damage(file: file, offset: place.offset, reason: reason))
        find(reason, place.offset, in: file, event: "damage", rest: " groups=\(record.group)")
    }

    /// A group has lost records of a batch that is damaged.
    private mutating func charge(_ lost: GroupSummary, _ damage: Damage) {
        // nothing follows in a batch that drops a group: whatever was lost, it is gone
        if lost.kinds.contains(RecordKind.dropped.inSummary) { return drop(lost.group) }
        let log = log(of: lost.group)
        var kinds = lost.kinds
        // what stood in front of the broken record was all there was
        if troubles[lost.group]?.kept == nil, log.entries.runs.last == lost.last { kinds.subtract(.entries) }
        var trouble = troubles[lost.group] ?? Trouble(damage)
        trouble.lose(kinds, last: lost.last, entries: &log.entries)
        troubles[lost.group] = trouble.isOver ? nil : trouble
    }

    private mutating func chargeAll(_ damage: Damage) {
        if damages.ofAll == nil { damages.ofAll = damage }
        // nothing read from here on may be joined to what is known
        for (group, log) in groups {
            var trouble = troubles[group] ?? Trouble(damage)
            trouble.lose([.entries, .promises], last: .zero, entries: &log.entries)
            troubles[group] = trouble
        }
        find(damage.reason, damage.offset, in: damage.file, event: "damage", rest: " groups=all")
    }

    private mutating func find(
        _ reason: String, _ offset: Int, in file: String, event: String = "flaw", rest: String = ""
    ) {
        findings.append(LogFinding(event: event, file: file, offset: offset, reason: reason, rest: rest))
    }
}

// MARK: - The end of the log

extension Recovery {
    /// Says what each group has lost in the end.
    private mutating func settleGroups() {
        for (group, log) in groups.sorted(by: { $0.key < $1.key }) {
            var found: Damages.OfGroup?
            if var trouble = troubles[group],
                let cost = trouble.settle(entries: &log.entries, debt: log.debt?.value)
            {
                found = Damages.OfGroup(damage: trouble.damage, cost: cost)
            }
            found = settleUnlisted(log, found) ?? found ?? settleGap(log)
            if let loss = log.loss?.value {
                found = Damages.OfGroup(damage: loss, cost: .promises(reason: loss.text), isRecorded: found == nil)
            }
            if let found { hurt(group, found) }
        }
        troubles = [:]
    }

    /// What a group has lost, if records of it lie in segments that are not listed, beside what was `found`: its entries,
    /// of which none is kept then, or more. Nil: there are no such records.
    private func settleUnlisted(_ log: GroupLog, _ found: Damages.OfGroup?) -> Damages.OfGroup? {
        let listed = segments.first?.number ?? 0
        guard let oldest = log.oldestSegment, oldest < listed else { return nil }
        let damage =
            found?.damage
            ?? Damage(
                file: LogFormat.manifestName, offset: 0,
                reason: "group \(log.group) needs segment \(oldest), which is not listed")
        var debt = max(log.entries.runs.last, log.debt?.value ?? .zero)
        if let oldest = log.entries.oldestSegment, oldest < listed { log.entries = EntryIndex() }
        let isPromiseLost = log.oldestSegment.map { $0 < listed } ?? false
        switch found?.cost {
        case _ where isPromiseLost, .promises?:
            return Damages.OfGroup(damage: damage, cost: .promises(reason: damage.text))
        case .entries(let known, _)?: debt = max(debt, known)
        case nil: break
        }
        return Damages.OfGroup(damage: damage, cost: .entries(debt: debt, reason: damage.text))
    }

    /// What a group has lost, if there is a gap between its base and its entries, of which none is kept then; nil: there
    /// is none.
    private func settleGap(_ log: GroupLog) -> Damages.OfGroup? {
        let runs = log.entries.runs
        guard !runs.isContiguous, let first = log.entries.locations.first else { return nil }
        let damage = Damage(
            file: LogFormat.segmentName(UInt64(first.segment)), offset: Int(first.offset),
            reason: "the entries of group \(log.group) between \(runs.base) and \(runs.runs[0]) are missing")
        log.entries = EntryIndex()
        let debt = max(runs.last, log.debt?.value ?? .zero)
        return Damages.OfGroup(damage: damage, cost: .entries(debt: debt, reason: damage.text))
    }

    private mutating func hurt(_ group: LogGroup, _ found: Damages.OfGroup) {
        damages.ofGroups[group] = found
        let damage = found.damage
        let lost =
            switch found.cost {
            case .entries(let debt, _): "entries debt=\(debt)"
            case .promises: "promises"
            }
        find(damage.reason, damage.offset, in: damage.file, event: "group-hurt", rest: " group=\(group) lost=\(lost)")
    }
}

// MARK: - The tail

extension Recovery {
    /// A wound that nothing proves.
    private mutating func decide(_ wound: Wound) throws(StorageError) {
        guard let image, !wound.isNoTail, !image.isShort, image.contentEnd <= wound.end ?? image.contentEnd,
            wound.sequence > lastIncluded
        else {
            chargeAll(
                Damage(
                    file: LogFormat.segmentName(wound.place.segment), offset: wound.place.offset,
                    reason: wound.reason))
            return
        }
        let file = LogFormat.segmentName(wound.place.segment)
        let count = image.contentEnd - wound.place.offset
        find(wound.reason, wound.place.offset, in: file, event: "tail-cut", rest: " bytes=\(count)")
        try overwriteTail(from: wound.place.offset, with: [UInt8](repeating: 0, count: count))
        end = wound.place
        nextSequence = wound.sequence
        self.wound = nil
    }

    /// A file that was cut off in the zeros behind the last batch has lost nothing. But a log that ends before a batch
    /// that the checkpoint includes has: under the numbers that are missing nothing may be written again, for the
    /// checkpoint would hide it.
    private mutating func checkEnd() throws(StorageError) {
        guard nextSequence > lastIncluded else {
            chargeAll(
                Damage(
                    file: LogFormat.segmentName(end.segment), offset: end.offset,
                    reason: "the batches up to number \(lastIncluded), which the checkpoint includes, are missing"))
            return
        }
        guard let image, image.isShort else { return }
        if end.offset < image.fileByteCount {
            try restoreSize()
        } else {
            let name = LogFormat.segmentName(image.entry.number)
            chargeAll(Damage(file: name, offset: image.fileByteCount, reason: "the file is cut off"))
        }
    }

    /// Gives the segment that was read last its size back, if it is short, so that what it holds can be read. Its
    /// shortness is evidence: not before its end has been decided about.
    private mutating func restoreSize() throws(StorageError) {
        guard let image, image.isShort, let file = segments.last?.file else { return }
        find("the file is cut off", image.fileByteCount, in: LogFormat.segmentName(image.entry.number))
        if isReadOnly { return }
        do throws(DiskError) {
            try file.preallocate(image.entry.size)
            try file.sync()
        } catch {
            throw .disk(error)
        }
    }

    /// Bytes read from the page cache are no promise: the last batch may never have reached the device.
    private mutating func rewriteLastBatch() throws(StorageError) {
        guard damages.ofAll == nil, let image, let lastBatch, lastBatch.place.segment == image.entry.number,
            !planted("unproven-tail-is-not-written-again")
        else { return }
        let range = lastBatch.place.offset..<min(lastBatch.end, image.fileByteCount)
        try overwriteTail(from: range.lowerBound, with: Array(image.bytes.part(range)))
    }

    private func overwriteTail(from offset: Int, with bytes: [UInt8]) throws(StorageError) {
        guard !isReadOnly, let file = segments.last?.file else { return }
        let scratch = Scratch()
        bytes.withUnsafeBytes { scratch.append($0) }
        do throws(DiskError) {
            try file.write([scratch.bytes], at: offset)
            try file.sync()
        } catch {
            throw .disk(error)
        }
    }
}

extension EntryIndex {
    /// Applies a record of the entries; false if it does not fit. What a record speaks of may have been in a segment
    /// that is gone because nothing in it was alive at the end: so without entries the next one may lie anywhere behind
    /// the base.
    fileprivate mutating func apply(
        _ record: Record, at location: RecordLocation, _ payloads: PayloadReader
    ) -> Bool {
        let position = record.position
        let isKnown = runs.firstIndex.map { position.index >= $0 } ?? false
        switch record.kind {
        case .truncate where position == .zero && runs.base.index > .zero:
            // written by a group that had lost everything, the base as well
            self = EntryIndex()
        case .truncate:
            guard position.index >= runs.base.index, !isKnown || runs.contains(position) else { return false }
            truncate(behind: position.index)
        case .compact, .reset:
            guard let configuration = payloads.configuration(record.payload) else { return false }
            let base = LogBase(position: position, configuration: configuration)
            if record.kind == .reset {
                reset(to: Placed(value: base, location: location))
            } else {
                guard position.index >= runs.base.index, !isKnown || runs.contains(position) else { return false }
                compact(to: Placed(value: base, location: location))
            }
        default:
            let configuration = record.kind == .configuration ? payloads.configuration(record.payload) : nil
            guard runs.accepts(position) || (runs.isEmpty && position.index > runs.base.index),
                (record.kind == .configuration) == (configuration != nil)
            else { return false }
            append(position, configuration: configuration, at: location)
        }
        return true
    }
}
