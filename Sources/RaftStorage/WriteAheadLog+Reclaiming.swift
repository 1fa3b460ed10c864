/// How full the log is, and what keeps it from being smaller.
public struct LogUsage: Equatable, Sendable {
    /// What a group keeps alive.
    public struct Pin: Equatable, Sendable {
        /// Whose.
        public var group: LogGroup
        /// Bytes of all its records that are still needed, wherever they lie.
        public var liveBytes: Int
    }

    /// Bytes that the segments occupy, those included whose files are still to be deleted.
    public var totalBytes: Int
    /// Bytes of records that are still needed.
    public var liveBytes: Int
    /// How many segments are listed.
    public var segments: Int
    /// Bound of ``totalBytes``.
    public var spaceBytes: Int
    /// Whether the log is about to refuse entries: new ones should be refused now.
    public var isTight: Bool
    /// The groups that keep the oldest segment from being reclaimed, ascending; none if it is the one being written.
    public var pins: [Pin]

    /// Whether more than half of the log, and more than two segments of `segmentBytes`, could be reclaimed: then it is
    /// worth carrying forward what pins it.
    public func isMostlyDead(segmentBytes: Int) -> Bool {
        totalBytes - liveBytes > max(totalBytes / 2, 2 * segmentBytes)
    }
}

/// What ``WriteAheadLog/carryForward(maxBytes:)`` has done.
public struct CarriedForward: Equatable, Sendable {
    /// Bytes of records written again.
    public var bytes = 0
    /// Groups whose entries could not be read: they are damaged, and pin the log until that is dealt with.
    public var damaged: [LogGroup] = []
}

/// A segment that is listed no more and whose file is still there.
struct RetiredSegment {
    let name: String
    let byteCount: Int
    /// Open, and perhaps still being read by another thread; nil if it was found at the start.
    var segment: Segment?

    init(_ segment: Segment) {
        name = segment.name
        byteCount = segment.entry.size
        self.segment = segment
    }

    /// One that an earlier process has left.
    init(found name: String, on disk: any Disk) throws(StorageError) {
        self.name = name
        do throws(DiskError) {
            let file = try disk.open(name)
            defer { file.close() }
            byteCount = try file.size()
        } catch {
            throw .disk(error)
        }
    }
}

extension WriteAheadLog {
    /// Groups looked at in one go, while nobody else can use the log.
    private static var sliceCount: Int { 512 }
    /// A group with entries and more than this alive is not carried forward but to be compacted.
    private static var imageBytesMax: Int { 256 << 10 }
    /// A file shrinks by this much at a time before it is removed, so that the file system is never busy for long.
    private static var deletionStepBytes: Int { 16 << 20 }

    /// How full the log is. Any thread; looks at every group, in slices.
    public func usage() -> LogUsage {
        let total = totalBytes
        let (liveBytes, numbers) = lock.withLock { (live.total, segments.keys.sorted()) }
        var pins: [LogUsage.Pin] = []
        if numbers.count > 1, let oldest = numbers.first { pins = self.pins(of: oldest) }
        return LogUsage(
            totalBytes: total, liveBytes: liveBytes, segments: numbers.count, spaceBytes: settings.spaceBytes,
            isTight: isTight(total), pins: pins)
    }

    /// Whether the log is about to refuse entries. Any thread.
    public var isTight: Bool { isTight(totalBytes) }

    /// Bytes of all records of `group` that are still needed. Any thread.
    public func liveBytes(of group: LogGroup) -> Int {
        lock.withLock { groups[group]?.liveBytes ?? 0 }
    }

    /// Bound of ``totalBytes``.
    public var spaceBytes: Int { settings.spaceBytes }

    private func isTight(_ total: Int) -> Bool { total + 3 * settings.segmentBytes > settings.spaceBytes }

    /// The groups that have something in a segment, and nothing in an older one that is listed, ascending.
    private func pins(of segment: UInt64) -> [LogUsage.Pin] {
        var pins: [LogUsage.Pin] = []
        // the list may lose groups that have been dropped meanwhile
        for start in stride(from: 0, to: lock.withLock { groupList.count }, by: WriteAheadLog.sliceCount) {
            lock.withLock {
                for log in groupList.dropFirst(start).prefix(WriteAheadLog.sliceCount)
                where log.oldestSegment ?? .max <= segment {
                    pins.append(LogUsage.Pin(group: log.group, liveBytes: log.liveBytes))
                }
            }
        }
        return pins.sorted { $0.group < $1.group }
    }

    /// Writes again, at the end, what the groups hold that keep the oldest segments from being reclaimed: at most
    /// `maxBytes`, each group as a whole in one batch, and no group that holds a lot. Since a group without entries cannot
    /// be compacted, it is carried however much it holds, one of more than `maxBytes` alone; so is one that has lost its
    /// promises, with what can be read of it, up to the size of a segment. Writer only.
    ///
    /// Throws what ``write(_:)`` throws.
    public func carryForward(maxBytes: Int) throws(StorageError) -> CarriedForward {
        var result = CarriedForward()
        guard let current else { return result }
        for entry in manifest.segments where entry.number < current.number && live[entry.number] > 0 {
            var writes: [LogWrite] = []
            for pin in pins(of: entry.number) {
                guard let log = groupLog(of: pin.group), log.loss != nil || damage(of: pin.group) == nil else {
                    continue
                }
                let hasEntries = log.entries.runs.firstIndex != nil
                let canBeCompacted = hasEntries && log.loss == nil
                guard !hasEntries || pin.liveBytes <= imageBytesMax(of: log) else { continue }
                let isFirst = result.bytes == 0 && !canBeCompacted
                guard result.bytes + pin.liveBytes <= maxBytes || isFirst else { break }
                do throws(StorageError) {
                    writes.append(try image(of: log))
                } catch .damaged {
                    result.damaged.append(pin.group)
                    continue
                } catch {
                    throw error
                }
                result.bytes += pin.liveBytes
            }
            if !writes.isEmpty { try write(writes, mayUseReserve: true) }
            // the next segments are of no use as long as this one is
            if live[entry.number] > 0 { break }
        }
        return result
    }

    /// A group with entries and more than this alive is not carried forward. One that has lost its promises is out of
    /// service, so nobody compacts it.
    private func imageBytesMax(of log: GroupLog) -> Int {
        log.loss == nil ? WriteAheadLog.imageBytesMax : settings.segmentBytes
    }

    /// Everything a group holds, as one write that needs nothing written before. Of a group that has lost its promises
    /// only what can be read is left.
    private func image(of log: GroupLog) throws(StorageError) -> LogWrite {
        let runs = log.entries.runs
        var write = LogWrite(
            group: log.group, hardState: log.hardState?.value, debt: log.debt?.value ?? .zero,
            start: .reset(log.entries.base?.value ?? LogBase(position: .zero, configuration: .empty)),
            note: log.note?.value)
        // what was lost with the promises may have left a gap behind the base; nothing can follow that
        if let first = runs.firstIndex, runs.isContiguous {
            var count = first.distance(to: runs.last.index) + 1
            if log.loss != nil, let damaged = try firstDamagedIndex(of: log.group) {
                count = first.distance(to: damaged)
            }
            write.entries = count == 0 ? [] : try entries(of: log.group, from: first, count: count, maxBytes: .max)
        }
        write.loss = log.loss?.value
        return write
    }

    /// Writes down, behind everything, which groups have lost their promises: what they lost them by may go then.
    private func recordLosses() throws(StorageError) {
        let writes = damages.unrecordedLosses
        guard !writes.isEmpty else { return }
        do throws(StorageError) {
            try write(writes, mayUseReserve: true)
        } catch {
            // without room it is found again at the next start
            guard case .disk(.full) = error else { throw error }
        }
    }

    /// Takes the oldest segments in which nothing is alive out of the list, durably; their files are removed by
    /// ``deleteRetired()``. Returns how many. Writer only. A checkpoint from which a restart would read on in one of them
    /// is given up; so it is better to write one first. Before that, writes down which groups have lost their promises, so
    /// that the damage itself may go.
    ///
    /// A full disk leaves everything as it is. Throws ``StorageError/failed(_:)`` if the disk failed, now or before.
    @discardableResult
    public func reclaim() throws(StorageError) -> Int {
        if let failure { throw .failed(failure) }
        try recordLosses()
        guard let current else { return 0 }
        let broken = damages.oldestSegment ?? .max
        let dead = manifest.segments.prefix { entry in
            entry.number < min(current.number, broken) && live[entry.number] == 0
        }
        guard let last = dead.last else { return 0 }
        var listed = manifest
        do throws(DiskError) {
            let needed = try releaseCheckpoint(before: last.number + 1)
            listed.segments.removeAll { $0.number < needed && $0.number <= last.number }
            guard listed != manifest else { return 0 }
            try listed.store(on: disk)
        } catch {
            guard case .full = error else { throw fail(error) }
            return 0
        }
        let gone = manifest.segments.prefix(manifest.segments.count - listed.segments.count)
        manifest = listed
        lock.withLock {
            for entry in gone {
                guard let segment = segments.removeValue(forKey: entry.number) else { continue }
                retired.append(RetiredSegment(segment))
            }
            live.forget(before: listed.segments[0].number)
        }
        return gone.count
    }

    /// Removes the files of segments that have been reclaimed, those still being read excepted. Big ones shrink in
    /// steps, so that no call into the file system takes long. One thread at a time.
    ///
    /// Throws ``StorageError/disk(_:)``; the files stay and may be tried again.
    public func deleteRetired() throws(StorageError) {
        while let next = nextToDelete() {
            do throws(DiskError) {
                try delete(next.name)
            } catch {
                lock.withLock { retired.append(next) }
                throw .disk(error)
            }
        }
    }

    /// Takes one from the list that nobody reads, and nobody can begin to.
    private func nextToDelete() -> RetiredSegment? {
        lock.withLock {
            for position in retired.indices {
                if retired[position].segment == nil || isKnownUniquelyReferenced(&retired[position].segment) {
                    let next = retired.remove(at: position)
                    next.segment?.file?.close()
                    return RetiredSegment(name: next.name, byteCount: next.byteCount)
                }
            }
            return nil
        }
    }

    private func delete(_ name: String) throws(DiskError) {
        guard disk.exists(name) else { return }
        let file = try disk.open(name)
        do throws(DiskError) {
            var count = try file.size()
            while count > WriteAheadLog.deletionStepBytes {
                count -= WriteAheadLog.deletionStepBytes
                try file.truncate(to: count)
            }
        } catch {
            file.close()
            throw error
        }
        file.close()
        try disk.remove(name)
    }
}

extension RetiredSegment {
    fileprivate init(name: String, byteCount: Int) {
        self.name = name
        self.byteCount = byteCount
    }
}
