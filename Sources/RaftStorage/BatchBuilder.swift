import RaftCore

/// Gathers the records of one batch without copying large payloads: heads and small payloads lie in a scratch buffer
/// that is kept from batch to batch, large payloads stay where they are. Writer thread only.
struct BatchBuilder {
    /// A piece of the body.
    private enum Piece {
        case scratch(Range<Int>)
        case shared(Bytes)
    }

    /// Payloads up to here are copied: that is cheaper than one more buffer for the system call.
    private static let copiedByteCountMax = 256

    private let scratch = Scratch(capacity: 1 << 16)
    private let own = Scratch()
    private var pieces: [Piece] = []
    private var pieceStart = 0
    private var checksum = Checksum()
    /// Of each summary: the terms of the group's log as the batch leaves it.
    private var staged: ContiguousArray<TermRuns> = []
    /// Counts batches, so that what a group remembers of an earlier one is known to be old.
    private var number: UInt64 = 0
    /// Groups that the log does not know yet.
    private var newcomers: [LogGroup: GroupLog] = [:]

    /// What the batch says of its groups, in the order of their first record.
    private(set) var summaries: ContiguousArray<GroupSummary> = []
    /// Of each write: its group.
    private(set) var logs: ContiguousArray<GroupLog> = []
    /// Of each record, in order: its bytes, counted from the start of the body.
    private(set) var records: ContiguousArray<Range<Int>> = []
    private(set) var recordCount = 0
    private(set) var bodyByteCount = 0
    var bodyChecksum: UInt32 { checksum.value }

    /// Starts over with `writes`; `known` are the groups of the log.
    mutating func gather(_ writes: [LogWrite], known: GroupTable) {
        scratch.removeAll()
        pieces.removeAll(keepingCapacity: true)
        staged.removeAll(keepingCapacity: true)
        summaries.removeAll(keepingCapacity: true)
        logs.removeAll(keepingCapacity: true)
        records.removeAll(keepingCapacity: true)
        if !newcomers.isEmpty { newcomers.removeAll() }
        (pieceStart, recordCount, bodyByteCount, checksum) = (0, 0, 0, Checksum())
        number += 1
        // in place, for to copy a write costs as much as to gather it
        writes.withUnsafeBufferPointer { writes in
            guard var write = writes.baseAddress else { return }
            for _ in writes.indices {
                let log = find(write.pointee.group, known)
                logs.append(log)
                add(write, of: log, slot: slot(of: log))
                write += 1
            }
        }
        flushScratch()
        for slot in summaries.indices { summaries[slot].last = staged[slot].last }
    }

    /// The body, piece by piece; valid until the next ``gather(_:known:)``.
    func appendBuffers(to buffers: inout [UnsafeRawBufferPointer]) {
        for piece in pieces {
            switch piece {
            case .scratch(let range): buffers.append(scratch[range])
            // the memory is immutable and `pieces` keeps it alive
            case .shared(let bytes): bytes.withUnsafeBytes { buffers.append($0) }
            }
        }
    }

    /// Hands over what the batch says of its groups, and takes back memory for the next.
    mutating func exchangeSummaries(for previous: inout ContiguousArray<GroupSummary>) { swap(&summaries, &previous) }

    private mutating func find(_ group: LogGroup, _ known: GroupTable) -> GroupLog {
        if let log = known[group] ?? newcomers[group] { return log }
        let log = GroupLog(group: group)
        newcomers[group] = log
        return log
    }

    private mutating func slot(of log: GroupLog) -> Int {
        if log.batch.number == number { return log.batch.slot }
        log.batch = (number, summaries.count)
        summaries.append(GroupSummary(group: log.group, kinds: [], last: .zero))
        staged.append(log.entries.runs)
        return summaries.count - 1
    }

    /// The records of a write; ``GroupLog/remember(_:records:live:)`` goes through them in the same order when they are
    /// durable.
    private mutating func add(_ write: UnsafePointer<LogWrite>, of log: GroupLog, slot: Int) {
        precondition(
            !summaries[slot].kinds.contains(RecordKind.dropped.inSummary), "group \(log.group) has been dropped")
        if write.pointee.drops {
            staged[slot] = TermRuns()
            return add(.dropped, slot: slot, position: .zero)
        }
        if let state = write.pointee.hardState {
            own.removeAll()
            if let vote = state.vote { own.append(text: vote.description) }
            let position = LogPosition(term: state.term, index: .zero)
            add(
                .hardState, slot: slot, position: position, payload: own.bytes,
                isLost: planted("hard-state-is-not-logged"))
        }
        if let debt = write.pointee.debt {
            add(debt == .zero ? .debtPaid : .debt, slot: slot, position: debt)
            // says where the log ends now: that settles what was lost before
            add(.truncate, slot: slot, position: staged[slot].last)
        }
        if let start = write.pointee.start, staged[slot].moves(to: start) { add(start, slot: slot) }
        if let index = write.pointee.truncateFrom {
            precondition(index > staged[slot].base.index, "entry \(index) has been compacted")
            staged[slot].truncate(behind: index.previous)
            add(.truncate, slot: slot, position: staged[slot].last, isLost: planted("truncation-is-not-logged"))
        }
        add(write.pointee.entries, slot: slot)
        if let note = write.pointee.note { add(.note, slot: slot, position: .zero, shared: note) }
        addLoss(write, of: log, slot: slot)
    }

    private mutating func addLoss(_ write: UnsafePointer<LogWrite>, of log: GroupLog, slot: Int) {
        own.removeAll()
        if let loss = write.pointee.loss {
            RecordPayload.append(loss, to: own)
            add(.promisesLost, slot: slot, position: .zero, payload: own.bytes)
            // as behind a debt
            add(.truncate, slot: slot, position: staged[slot].last)
        } else if log.loss != nil, write.pointee.makesAllPromises {
            add(.promisesLost, slot: slot, position: .zero, payload: own.bytes)
        }
    }

    private mutating func add(_ start: LogStart, slot: Int) {
        own.removeAll()
        switch start {
        case .compact(let base):
            precondition(staged[slot].contains(base.position), "there is no entry \(base.position) to compact to")
            staged[slot].compact(to: base.position)
            RecordPayload.append(base.configuration, to: own)
            add(.compact, slot: slot, position: base.position, payload: own.bytes)
        case .reset(let base):
            staged[slot] = TermRuns(base: base.position, runs: [], last: .zero)
            RecordPayload.append(base.configuration, to: own)
            add(.reset, slot: slot, position: base.position, payload: own.bytes)
        }
    }

    private mutating func add(_ entries: [LogEntry], slot: Int) {
        for number in entries.indices {
            let (position, kind) = (entries[number].position, entries[number].kind)
            precondition(staged[slot].accepts(position), "entry \(position) cannot follow \(staged[slot].last)")
            staged[slot].append(position)
            guard kind == .configuration else {
                add(RecordKind(kind), slot: slot, position: position, shared: entries[number].payload)
                continue
            }
            guard let configuration = entries[number].configuration else {
                preconditionFailure("configuration entry \(position) without a configuration")
            }
            own.removeAll()
            RecordPayload.append(configuration, to: own)
            add(.configuration, slot: slot, position: position, payload: own.bytes)
        }
    }

    private mutating func add(_ kind: RecordKind, slot: Int, position: LogPosition, shared payload: Bytes) {
        payload.withUnsafeBytes { bytes in
            let share = bytes.count > BatchBuilder.copiedByteCountMax ? payload : nil
            add(kind, slot: slot, position: position, payload: bytes, share: share)
        }
    }

    /// Adds a record, unless a planted bug loses it. The payload is copied, unless `share` gives it a home.
    private mutating func add(
        _ kind: RecordKind, slot: Int, position: LogPosition,
        payload: UnsafeRawBufferPointer = UnsafeRawBufferPointer(start: nil, count: 0), share: Bytes? = nil,
        isLost: Bool = false
    ) {
        guard !isLost else { return records.append(bodyByteCount..<bodyByteCount) }
        let record = Record(kind: kind, group: summaries[slot].group, position: position, payload: payload)
        if let share {
            record.encodeHead(into: scratch)
            flushScratch()
            checksum.update(payload)
            pieces.append(.shared(share))
        } else {
            record.encode(into: scratch)
        }
        summaries[slot].kinds.insert(kind.inSummary)
        records.append(bodyByteCount..<bodyByteCount + record.byteCount)
        recordCount += 1
        bodyByteCount += record.byteCount
    }

    private mutating func flushScratch() {
        guard scratch.count > pieceStart else { return }
        checksum.update(scratch[pieceStart..<scratch.count])
        pieces.append(.scratch(pieceStart..<scratch.count))
        pieceStart = scratch.count
    }
}
