import RaftCore

/// Gathers the records of one batch without copying large payloads: heads and small payloads lie in a scratch buffer
/// that is kept from batch to batch, large payloads stay where they are. Writer thread only.
final class BatchBuilder {
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
    private var staged: [TermRuns] = []
    private var slots: [LogGroup: Int] = [:]

    /// What the batch says of its groups, in the order of their first record.
    private(set) var summaries: [GroupSummary] = []
    /// Of each record, in order: its bytes, counted from the start of the body.
    private(set) var records: [Range<Int>] = []
    private(set) var recordCount = 0
    private(set) var bodyByteCount = 0
    var bodyChecksum: UInt32 { checksum.value }

    /// Starts over with `writes`. `runs` tells the terms of a group's log as it is now.
    func gather(_ writes: [LogWrite], runs: (LogGroup) -> TermRuns) {
        scratch.removeAll()
        pieces.removeAll(keepingCapacity: true)
        staged.removeAll(keepingCapacity: true)
        slots.removeAll(keepingCapacity: true)
        summaries.removeAll(keepingCapacity: true)
        records.removeAll(keepingCapacity: true)
        (pieceStart, recordCount, bodyByteCount, checksum) = (0, 0, 0, Checksum())
        for write in writes { add(write, runs: runs) }
        flushScratch()
        for slot in summaries.indices { summaries[slot].last = staged[slot].last }
    }

    /// The body, piece by piece; valid until the next ``gather(_:runs:)``.
    func appendBuffers(to buffers: inout [UnsafeRawBufferPointer]) {
        for piece in pieces {
            switch piece {
            case .scratch(let range): buffers.append(scratch[range])
            // the memory is immutable and `pieces` keeps it alive
            case .shared(let bytes): bytes.withUnsafeBytes { buffers.append($0) }
            }
        }
    }

    /// The records of a write; ``WriteAheadLog`` goes through them in the same order when they are durable.
    private func add(_ write: LogWrite, runs: (LogGroup) -> TermRuns) {
        let slot = slot(of: write.group, runs: runs)
        if let state = write.hardState {
            own.removeAll()
            if let vote = state.vote { own.append(text: vote.description) }
            let position = LogPosition(term: state.term, index: .zero)
            add(
                .hardState, slot: slot, position: position, payload: own.bytes,
                isLost: planted("hard-state-is-not-logged"))
        }
        if let debt = write.debt {
            add(debt == .zero ? .debtPaid : .debt, slot: slot, position: debt)
            // says where the log ends now: that settles what was lost before
            add(.truncate, slot: slot, position: staged[slot].last)
        }
        if let start = write.start, staged[slot].moves(to: start) { add(start, slot: slot) }
        if let index = write.truncateFrom {
            precondition(index > staged[slot].base.index, "entry \(index) has been compacted")
            staged[slot].truncate(behind: index.previous)
            add(.truncate, slot: slot, position: staged[slot].last, isLost: planted("truncation-is-not-logged"))
        }
        for entry in write.entries { add(entry, slot: slot) }
        if let note = write.note { add(.note, slot: slot, position: .zero, shared: note) }
    }

    private func add(_ start: LogStart, slot: Int) {
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

    private func add(_ entry: LogEntry, slot: Int) {
        precondition(
            staged[slot].accepts(entry.position), "entry \(entry.position) cannot follow \(staged[slot].last)")
        staged[slot].append(entry.position)
        if entry.kind == .configuration {
            guard let configuration = entry.configuration else {
                preconditionFailure("configuration entry \(entry.position) without a configuration")
            }
            own.removeAll()
            RecordPayload.append(configuration, to: own)
            add(.configuration, slot: slot, position: entry.position, payload: own.bytes)
        } else {
            add(RecordKind(entry.kind), slot: slot, position: entry.position, shared: entry.payload)
        }
    }

    private func add(_ kind: RecordKind, slot: Int, position: LogPosition, shared payload: Bytes) {
        payload.withUnsafeBytes { bytes in
            let share = bytes.count > BatchBuilder.copiedByteCountMax ? payload : nil
            add(kind, slot: slot, position: position, payload: bytes, share: share)
        }
    }

    /// Adds a record, unless a planted bug loses it. The payload is copied, unless `share` gives it a home.
    private func add(
        _ kind: RecordKind, slot: Int, position: LogPosition,
        payload: UnsafeRawBufferPointer = UnsafeRawBufferPointer(start: nil, count: 0), share: Bytes? = nil,
        isLost: Bool = false
    ) {
        guard !isLost else { return records.append(bodyByteCount..<bodyByteCount) }
        let record = Record(kind: kind, group: summaries[slot].group, position: position, payload: payload)
        let head = scratch.count
        record.encodeHead(into: scratch)
        checksum.update(scratch[head..<scratch.count])
        checksum.update(payload)
        if let share {
            flushScratch()
            pieces.append(.shared(share))
        } else {
            scratch.append(payload)
        }
        summaries[slot].kinds.insert(kind.inSummary)
        records.append(bodyByteCount..<bodyByteCount + record.byteCount)
        recordCount += 1
        bodyByteCount += record.byteCount
    }

    private func flushScratch() {
        guard scratch.count > pieceStart else { return }
        pieces.append(.scratch(pieceStart..<scratch.count))
        pieceStart = scratch.count
    }

    private func slot(of group: LogGroup, runs: (LogGroup) -> TermRuns) -> Int {
        if let slot = slots[group] { return slot }
        slots[group] = summaries.count
        summaries.append(GroupSummary(group: group, kinds: [], last: .zero))
        staged.append(runs(group))
        return summaries.count - 1
    }
}
