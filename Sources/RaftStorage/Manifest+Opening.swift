extension Manifest {
    /// The manifest of the log on `disk`; a new one, stored, if there is no log. What an interrupted start of a
    /// segment has left behind is removed. Segments before the first that is listed have been reclaimed; those whose
    /// files are still there are `retired`.
    static func open(
        on disk: any Disk, identity: UInt64, log: (String) -> Void
    ) throws(StorageError) -> (Manifest, retired: [RetiredSegment]) {
        let names: [String]
        do throws(DiskError) {
            names = try disk.list()
        } catch {
            throw .disk(error)
        }
        let segments = names.filter { LogFormat.segmentNumber(of: $0) != nil }
        if var manifest = try load(from: disk) {
            try manifest.upgrade(on: disk)
            return (manifest, try manifest.removeUnlisted(segments, on: disk, log: log))
        }
        // the first manifest is older than the first segment
        if let orphan = segments.first {
            throw .damaged(file: LogFormat.manifestName, offset: 0, reason: "it is missing, but \(orphan) exists")
        }
        let manifest = Manifest(identity: identity)
        do throws(DiskError) {
            try manifest.store(on: disk)
        } catch {
            throw .disk(error)
        }
        return (manifest, [])
    }

    /// From now on batches may hold what an older program does not know: it must refuse the log.
    private mutating func upgrade(on disk: any Disk) throws(StorageError) {
        guard version < LogFormat.version else { return }
        version = LogFormat.version
        do throws(DiskError) { try store(on: disk) } catch { throw .disk(error) }
    }

    private func removeUnlisted(
        _ names: [String], on disk: any Disk, log: (String) -> Void
    ) throws(StorageError) -> [RetiredSegment] {
        var retired: [RetiredSegment] = []
        do throws(DiskError) {
            // the list itself may have been read from the page cache
            try disk.syncDirectory()
        } catch {
            throw .disk(error)
        }
        for name in names {
            guard let number = LogFormat.segmentNumber(of: name), !segments.contains(where: { $0.number == number })
            else { continue }
            if let first = segments.first, number < first.number {
                retired.append(try RetiredSegment(found: name, on: disk))
                continue
            }
            if try holdsBatches(name, number: number, on: disk) {
                throw .damaged(
                    file: LogFormat.manifestName, offset: 0, reason: "it does not list \(name), which holds batches")
            }
            do throws(DiskError) {
                try disk.remove(name)
            } catch {
                throw .disk(error)
            }
            log("wal event=leftover-removed file=\(name) reason=\"the segment was never used\"")
        }
        return retired
    }

    /// Whether there is anything behind the opening seal of a segment that is not listed, be it readable or not. Where
    /// a seal ends that cannot be read itself, perhaps because it is torn, only a batch behind it tells.
    private func holdsBatches(_ name: String, number: UInt64, on disk: any Disk) throws(StorageError) -> Bool {
        do throws(DiskError) {
            let file = try disk.open(name)
            defer { file.close() }
            let entry = Entry(number: number, size: try file.size(), firstSequence: 0, firstOffset: 0)
            let image = try SegmentImage(of: file, entry: entry)
            guard let seal = image.header(at: SegmentHeader.byteCount, identity: identity) else {
                return image.nextHeader(from: SegmentHeader.byteCount, sequence: 0, identity: identity) != nil
            }
            return image.contentEnd > seal.end
        } catch {
            throw .disk(error)
        }
    }
}
