import RaftCore

/// The log of all groups of a process: one file stream, one sync for whatever they have to write together.
///
/// Threads: ``write(_:)``, ``sealIfIdle()``, ``pulse()``, ``carryForward(maxBytes:)``, ``reclaim()`` and ``close()``
/// belong to one thread, the writer; ``deleteRetired()`` and ``checkpoint()`` each to any one; ``entries(of:from:count:maxBytes:)``,
/// ``usage()``, ``isTight`` and ``totalBytes`` may be called from any thread meanwhile.
///
/// 1. When ``write(_:)`` returns, everything in it is durable; until then nobody can read it.
/// 2. A write that throws ``DiskError/full(path:)`` has changed nothing and may be repeated. What it may have left
///    behind in the segment, on a file system that copies on write, is overwritten with zeros, durably, before anything
///    else is written: a crash at any moment finds a torn tail there, or nothing.
/// 3. After any other failure of the disk the log is closed for writing: what a failed sync left behind is unknown,
///    and a second sync would not tell. The process must stop and recover.
/// 4. A segment is listed in the manifest, durably, before it holds anything. It opens with a seal, which proves
///    that everything in the segments before it is durable.
///
/// A batch never spans segments: one larger than ``Settings-swift.struct/segmentBytes`` gets a segment of its own
/// size.
public final class WriteAheadLog: @unchecked Sendable {
    /// What may be chosen.
    public struct Settings: Sendable {
        /// Size of a segment in bytes.
        public var segmentBytes: Int
        /// Bytes of the device that entries leave free: a batch with entries that needs a new segment is refused with
        /// ``DiskError/full(path:)`` if fewer would be left. Batches without entries (a vote, a compaction) may use them
        /// up, and whatever fits into a segment that is there needs no more room.
        public var reserveBytes: Int
        /// Bound of all segments together. When the next segment would come closer to it than two segments, writes with
        /// entries are refused with ``DiskError/full(path:)``; those without may go on, so that space can be reclaimed.
        public var spaceBytes: Int
        /// Drawn at random when a log is created, and kept by it: since batches carry it, nobody who chooses a
        /// payload can make it look like a batch. Ignored for a log that exists.
        public var identity: UInt64

        /// Settings; `segmentBytes` at least 1 KiB, below 4 GiB; `spaceBytes` at least four times that.
        public init(
            segmentBytes: Int = 64 << 20, reserveBytes: Int = 64 << 20, spaceBytes: Int = 16 << 30,
            identity: UInt64 = 0
        ) {
            precondition(segmentBytes >= 1 << 10 && segmentBytes < 1 << 32 && reserveBytes >= 0)
            precondition(spaceBytes >= 4 * segmentBytes)
            self.segmentBytes = segmentBytes
            self.reserveBytes = reserveBytes
            self.spaceBytes = spaceBytes
            self.identity = identity
        }
    }

    let disk: any Disk
    let settings: Settings
    /// Drawn when the log was created.
    let identity: UInt64

    // The writer's own.
    var manifest: Manifest
    /// Where batches go; nil until the first write.
    private(set) var current: Segment?
    private var endOffset: Int
    private var nextSequence: UInt64
    private var previousSummaries: ContiguousArray<GroupSummary>
    private var endsWithSeal: Bool
    /// How far a batch that found no room may have been written behind the last one; nil: there is none.
    private var remainsEnd: Int?
    /// How far the current segment has been written, be it with zeros.
    private var writtenEnd = 0
    private(set) var failure: String?
    /// Nil until the first pulse.
    private var pulseFile: (any DiskFile)?
    private var pulses: UInt64 = 0
    private var batch = BatchBuilder()
    private let header = Scratch()
    private var buffers: [UnsafeRawBufferPointer] = []

    // Changed by the writer under the lock.
    let lock = Lock()
    /// As found at the start, less what has been settled since.
    private(set) var damages: Damages
    private(set) var groups: GroupTable
    /// All groups, so that they can be gone through in slices.
    private(set) var groupList: [GroupLog]
    var segments: [UInt64: Segment]
    var live = LiveBytes()
    /// The last batch that can be read.
    private(set) var rememberedSequence: UInt64
    var checkpointState: CheckpointState
    /// While one is being written: what the checkpoint on the disk needs.
    var checkpointBefore: UInt64?
    /// Segments that are listed no more and whose files are still there.
    var retired: [RetiredSegment]

    private init(
        disk: any Disk, settings: Settings, manifest: Manifest, recovery: Recovery, retired: [RetiredSegment]
    ) {
        self.disk = disk
        self.settings = settings
        self.manifest = manifest
        identity = manifest.identity
        self.retired = retired
        rememberedSequence = recovery.nextSequence - 1
        checkpointState = .idle(segment: recovery.checkpointSegment)
        groups = GroupTable(recovery.groups.values)
        groupList = recovery.groups.values.sorted { $0.group < $1.group }
        segments = Dictionary(uniqueKeysWithValues: recovery.segments.map { ($0.number, $0) })
        damages = recovery.damages
        previousSummaries = recovery.lastSummaries
        endsWithSeal = recovery.lastBatch?.isSeal ?? false
        nextSequence = recovery.nextSequence
        // with every group damaged nothing will be written
        current = recovery.damages.ofAll == nil ? recovery.segments.last : nil
        endOffset = recovery.end.offset
        for log in groupList {
            log.isListed = true
            log.forEachLocation { live.add($0, to: log) }
        }
    }

    /// Whether `disk` has a log, whatever its state.
    public static func isKept(on disk: any Disk) -> Bool { disk.exists(LogFormat.manifestName) }

    /// Opens the log of `disk`, or creates it, and recovers what it holds. A torn tail is cut; what is not proven to
    /// have reached the device is written again and synced. Damage does not stop it: the groups that were hurt say so,
    /// and what it has cost them, in ``RecoveredGroup/damage``. If nobody can tell who was hurt, every group says so,
    /// group 0 in any case.
    ///
    /// `log` gets one line per finding. Throws ``StorageError/newerFormat(file:found:known:)``, and
    /// ``StorageError/damaged(file:offset:reason:)`` if the list of segments itself cannot be read.
    public static func open(
        disk: any Disk, settings: Settings, log: (String) -> Void
    ) throws(StorageError) -> (WriteAheadLog, [LogGroup: RecoveredGroup]) {
        let (manifest, retired) = try Manifest.open(on: disk, identity: settings.identity, log: log)
        let checkpoint = try Checkpoint.load(from: disk, for: manifest, log: log)
        var recovery = Recovery(disk: disk, identity: manifest.identity, checkpoint: checkpoint)
        do throws(StorageError) {
            for entry in manifest.segments { try recovery.read(entry) }
            try recovery.finish()
        } catch {
            for finding in recovery.findings { log(finding.description) }
            throw error
        }
        for finding in recovery.findings { log(finding.description) }
        let opened = WriteAheadLog(
            disk: disk, settings: settings, manifest: manifest, recovery: recovery, retired: retired)
        return (opened, recovery.recoveredGroups)
    }

    /// Writes one batch and returns when it is durable: one gathered write, one sync. Writes of one group stand in
    /// order; a group's entries must follow its last one (`precondition`).
    ///
    /// Throws ``StorageError/disk(_:)`` with ``DiskError/full(path:)`` if there is no room, with nothing changed;
    /// ``StorageError/damaged(file:offset:reason:)`` for a group that was recovered damaged, with nothing changed, unless
    /// only entries were lost and its first write carries a debt or resets the log;
    /// ``StorageError/failed(_:)`` if the disk failed, now or before.
    public func write(_ writes: [LogWrite]) throws(StorageError) {
        try write(writes, mayUseReserve: !writes.contains { !$0.entries.isEmpty })
    }

    /// Writes a batch. What `mayUseReserve` may take the last segments of the log's bound, and the last room of the device.
    func write(_ writes: [LogWrite], mayUseReserve: Bool) throws(StorageError) {
        if let failure { throw .failed(failure) }
        let settles = try checkDamages(writes)
        batch.gather(writes, known: groups)
        guard batch.recordCount > 0 else { return }
        let place = try appendBatch(mayUseReserve: mayUseReserve)
        remember(writes, bodyAt: place)
        if settles { lock.withLock { for write in writes { damages.settle(write) } } }
    }

    /// Whether `writes` will settle the damage of a group; throws if one is not to be written.
    private func checkDamages(_ writes: [LogWrite]) throws(StorageError) -> Bool {
        var settled: [LogGroup] = []
        guard damages.ofAll != nil || !damages.ofGroups.isEmpty else { return false }
        for write in writes where !settled.contains(write.group) {
            guard let damage = damages.of(write.group) else { continue }
            guard damages.allow(write) else { throw damage.error }
            settled.append(write.group)
        }
        return !settled.isEmpty
    }

    /// What is wrong with a group; nil if it is whole. Any thread.
    func damage(of group: LogGroup) -> Damage? { lock.withLock { damages.of(group) } }

    /// Proves the last batch durable for the next start, if nothing does so yet: from then on its damage cannot pass
    /// for a torn tail. Called by the writer when it has had nothing to write for 50 ms. If the disk is full it does
    /// nothing; if the disk fails, the next ``write(_:)`` says so.
    public func sealIfIdle() {
        guard failure == nil, current != nil, !endsWithSeal else { return }
        batch.gather([], known: groups)
        do throws(StorageError) {
            _ = try appendBatch(mayUseReserve: true)
        } catch {
            // full: the next idle moment tries again; anything else the next write will say
            if case .disk(.full) = error { return }
            precondition(failure != nil, error.description)
        }
    }

    /// Finds out whether the disk still completes what it is given: overwrites a small file of its own, which nobody
    /// reads, and returns when that is durable. So an idle log proves itself without growing. A full disk answers, and
    /// so passes.
    ///
    /// Throws ``StorageError/failed(_:)`` if the disk failed, now or before.
    public func pulse() throws(StorageError) {
        if let failure { throw .failed(failure) }
        pulses += 1
        do throws(DiskError) {
            if pulseFile == nil { pulseFile = try openPulseFile() }
            try pulseFile?.write(number: pulses, at: 0)
            try pulseFile?.sync()
        } catch {
            if case .full = error { return }
            throw fail(error)
        }
    }

    private func openPulseFile() throws(DiskError) -> any DiskFile {
        disk.exists(LogFormat.pulseName)
            ? try disk.open(LogFormat.pulseName) : try disk.create(LogFormat.pulseName)
    }

    /// A clean stop: seals the log and closes its files. No other call may be under way or follow, except writes,
    /// which are refused. Throws ``StorageError/failed(_:)`` if the disk failed, now or before.
    public func close() throws(StorageError) {
        sealIfIdle()
        let failed = failure
        failure = "the log is closed"
        for entry in manifest.segments { segments[entry.number]?.file?.close() }
        pulseFile?.close()
        if let failed { throw .failed(failed) }
    }

    /// Bytes that the segments occupy, those included whose files are still to be deleted.
    public var totalBytes: Int {
        lock.withLock { segments.values.reduce(0) { $0 + $1.entry.size } + retired.reduce(0) { $0 + $1.byteCount } }
    }

    /// What the log knows of a group; the writer may read it without the lock.
    func groupLog(of group: LogGroup) -> GroupLog? { groups[group] }

    /// Index of a group's first entry; nil if it has none.
    func firstIndex(of group: LogGroup) -> LogIndex? { lock.withLock { groups[group]?.entries.runs.firstIndex } }

    /// Where the records of a group's entries lie, with the files they lie in.
    func locations(
        of group: LogGroup, from index: LogIndex, count: Int, maxBytes: Int
    ) -> [(segment: Segment, location: RecordLocation)] {
        lock.withLock {
            guard let log = groups[group] else { return [] }
            return log.entries.locations(from: index, count: count, maxBytes: maxBytes).map { location in
                guard let segment = segments[UInt64(location.segment)] else {
                    preconditionFailure("segment \(location.segment) is not there")
                }
                return (segment, location)
            }
        }
    }
}

// MARK: - Writing

extension WriteAheadLog {
    /// Makes the gathered batch durable behind the last one. Returns where its body is.
    private func appendBatch(mayUseReserve: Bool) throws(StorageError) -> LogPlace {
        try clearRemains()
        let segment = try segmentWithRoom(mayUseReserve: mayUseReserve)
        let batchHeader = BatchHeader(
            identity: identity, sequence: nextSequence,
            place: LogPlace(segment: segment.number, offset: endOffset),
            // one write, one sync: everything before this batch is durable
            proven: LogPlace(segment: segment.number, offset: endOffset),
            bodyByteCount: batch.bodyByteCount, bodyChecksum: batch.bodyChecksum, recordCount: batch.recordCount,
            ownCount: batch.summaries.count, previousCount: previousSummaries.count)
        header.removeAll()
        batchHeader.encode(own: batch.summaries, previous: previousSummaries, into: header)
        buffers.removeAll(keepingCapacity: true)
        buffers.append(header.bytes)
        batch.appendBuffers(to: &buffers)
        do throws(DiskError) {
            try segment.openFile.write(buffers, at: endOffset)
            try writeZeros(behind: batchHeader, in: segment)
        } catch {
            guard case .full = error else { throw fail(error) }
            remainsEnd = batchHeader.end
            throw .disk(error)
        }
        if !planted("log-does-not-sync") { try sync(segment) }
        endOffset = batchHeader.end
        nextSequence += 1
        batch.exchangeSummaries(for: &previousSummaries)
        endsWithSeal = batchHeader.isSeal
        return LogPlace(segment: segment.number, offset: batchHeader.bodyOffset)
    }

    /// Blocks of a file that have been written before, if only with zeros, are synced without a change of the file
    /// system's own books. So a small batch that enters new ones writes a stretch of them for those that follow.
    private func writeZeros(behind batch: BatchHeader, in segment: Segment) throws(DiskError) {
        guard batch.end > writtenEnd else { return }
        writtenEnd = batch.end
        let end = min(batch.end + WriteAheadLog.zeros.count, segment.entry.size)
        guard batch.end - batch.place.offset <= WriteAheadLog.zeros.count / 4, end > batch.end else { return }
        try WriteAheadLog.zeros.slice(from: 0, count: end - batch.end).withUnsafeBytes { (bytes) throws(DiskError) in
            try segment.openFile.write([bytes], at: batch.end)
        }
        writtenEnd = end
    }

    private static let zeros = Bytes(count: 256 << 10) { $0.initializeMemory(as: UInt8.self, repeating: 0) }

    /// Overwrites what a batch without room has left behind. Synced before the next batch is written: whatever stands
    /// behind a batch that a crash has torn would be taken for damage.
    private func clearRemains() throws(StorageError) {
        guard let end = remainsEnd, let current else { return }
        let zeros = Scratch(zeros: end - endOffset)
        do throws(DiskError) {
            try current.openFile.write([zeros.bytes], at: endOffset)
        } catch {
            guard case .full = error else { throw fail(error) }
            throw .disk(error)
        }
        try sync(current)
        remainsEnd = nil
    }

    /// Even a shortage of space is final here: nobody knows then what has been written.
    private func sync(_ segment: Segment) throws(StorageError) {
        do throws(DiskError) { try segment.openFile.sync() } catch { throw fail(error) }
    }

    private func segmentWithRoom(mayUseReserve: Bool) throws(StorageError) -> Segment {
        let body = batch.bodyByteCount
        let own = batch.summaries.count
        let needed = BatchHeader.batchByteCount(body: body, summaries: own + previousSummaries.count)
        if let current, endOffset + needed <= current.entry.size { return current }
        return try startSegment(
            roomFor: BatchHeader.batchByteCount(body: body, summaries: own), mayUseReserve: mayUseReserve)
    }

    /// Creates the next segment with `room` behind its opening seal, lists it, and goes on there.
    private func startSegment(roomFor room: Int, mayUseReserve: Bool) throws(StorageError) -> Segment {
        let number = (manifest.segments.last?.number ?? 0) + 1
        let proven = current.map { LogPlace(segment: $0.number, offset: endOffset) } ?? .start
        let seal = BatchHeader.seal(
            identity: identity, sequence: nextSequence,
            place: LogPlace(segment: number, offset: SegmentHeader.byteCount), proven: proven,
            repeating: previousSummaries.count)
        var size = settings.segmentBytes
        if seal.end + room > size { size = (seal.end + room + 4095) / 4096 * 4096 }
        precondition(size <= Int(UInt32.max), "a batch of \(room) bytes")
        try checkRoom(for: size, mayUseReserve: mayUseReserve)
        var listed = manifest
        let segment: Segment
        do throws(DiskError) {
            segment = try Segment.create(
                number: number, size: size, seal: seal, repeating: previousSummaries, on: disk)
            listed.segments.append(segment.entry)
            try listed.store(on: disk)
        } catch {
            guard case .full = error else { throw fail(error) }
            throw .disk(error)
        }
        manifest = listed
        current = segment
        endOffset = segment.entry.firstOffset
        writtenEnd = endOffset
        nextSequence += 1
        previousSummaries = []
        endsWithSeal = true
        lock.withLock { segments[number] = segment }
        return segment
    }

    /// Throws ``DiskError/full(path:)`` unless a segment of `size` bytes leaves what must be left.
    private func checkRoom(for size: Int, mayUseReserve: Bool) throws(StorageError) {
        let bound = settings.spaceBytes - (mayUseReserve ? 0 : 2 * settings.segmentBytes)
        guard totalBytes + size <= bound else {
            throw .disk(.full(path: "\(disk.path), where the log may take \(settings.spaceBytes) bytes"))
        }
        guard !mayUseReserve, settings.reserveBytes > 0 else { return }
        do throws(DiskError) {
            guard try disk.freeBytes() - size >= settings.reserveBytes else { throw .full(path: disk.path) }
        } catch {
            throw .disk(error)
        }
    }

    /// Adds a durable batch to what can be read.
    private func remember(_ writes: [LogWrite], bodyAt place: LogPlace) {
        lock.withLock {
            rememberedSequence = nextSequence - 1
            var records = RecordPlaces(batch.records, bodyAt: place)
            for log in batch.logs where !log.isListed { list(log) }
            remember(writes, of: batch.logs, &records, &live)
            // in the list they stay until a checkpoint begins: one may be under way
            for log in batch.logs where !log.isListed { groups[log.group] = nil }
        }
    }

    private func remember(
        _ writes: [LogWrite], of logs: ContiguousArray<GroupLog>, _ records: inout RecordPlaces,
        _ live: inout LiveBytes
    ) {
        // in place, for to copy a write costs more than to remember it
        writes.withUnsafeBufferPointer { writes in
            guard let first = writes.baseAddress else { return }
            for position in writes.indices {
                logs[position].remember(first + position, records: &records, live: &live)
            }
        }
    }

    /// Takes groups that have been dropped out of the list, while nobody goes through it.
    func forgetDropped() { groupList.removeAll { !$0.isListed } }

    private func list(_ log: GroupLog) {
        log.isListed = true
        groups[log.group] = log
        groupList.append(log)
    }

    /// Closes the log for writing.
    func fail(_ error: DiskError) -> StorageError {
        let reason = "the log cannot be written any more: \(error)"
        failure = reason
        return .failed(reason)
    }
}

extension DiskFile {
    /// Writes eight bytes.
    fileprivate func write(number: UInt64, at offset: Int) throws(DiskError) {
        var bytes = number.littleEndian
        try withUnsafeBytes(of: &bytes) { (buffer) throws(DiskError) in try write([buffer], at: offset) }
    }
}
