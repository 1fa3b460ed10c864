public import RaftCore

extension WriteAheadLog {
    /// Entries of a group from index `from` on, ascending: at most `count`, and not more than `maxBytes` of them, but
    /// at least one if that entry exists. Empty if it does not.
    ///
    /// Any thread; reads the device. Only durable entries are seen. Payloads of one read share memory. Throws
    /// ``StorageError/damaged(file:offset:reason:)`` if what is there is not what was written, and for what a damaged
    /// group has lost.
    public func entries(
        of group: LogGroup, from: LogIndex, count: Int, maxBytes: Int
    ) throws(StorageError) -> [LogEntry] {
        let found = locations(of: group, from: from, count: count, maxBytes: maxBytes)
        if found.isEmpty, count > 0, let damage = damage(of: group) { throw damage.error }
        var entries: [LogEntry] = []
        entries.reserveCapacity(found.count)
        var first = 0
        while first < found.count {
            // records of one write lie side by side: one read for all of them
            var next = first + 1
            while next < found.count, found[next].segment === found[first].segment,
                found[next].location.offset == found[next - 1].location.end
            {
                next += 1
            }
            let run = found[first..<next]
            let start = Int(found[first].location.offset)
            let bytes = try read(found[first].segment, start..<Int(found[next - 1].location.end))
            for (segment, location) in run {
                let record = bytes.slice(from: Int(location.offset) - start, count: Int(location.byteCount))
                let index = from.advanced(by: entries.count)
                guard let entry = decode(record, of: group, at: index) else {
                    throw .damaged(
                        file: segment.name, offset: Int(location.offset),
                        reason: "the checksum of entry \(index) of group \(group) does not match")
                }
                entries.append(entry)
            }
            first = next
        }
        return entries
    }

    /// The first entry of a group, from index `from` on, that is not what was written; nil if all are. Reads all of
    /// them. Any thread. Throws ``StorageError/disk(_:)``.
    public func firstDamagedIndex(of group: LogGroup, from: LogIndex = LogIndex(1)) throws(StorageError) -> LogIndex? {
        var index = max(from, firstIndex(of: group) ?? from)
        var count = 256
        while true {
            do throws(StorageError) {
                let read = try entries(of: group, from: index, count: count, maxBytes: 1 << 20).count
                if read == 0 { return nil }
                index = index.advanced(by: read)
            } catch .damaged {
                // behind the last entry that is there: what a group has lost already is no entry
                guard !locations(of: group, from: index, count: 1, maxBytes: 1).isEmpty else { return nil }
                if count == 1 { return index }
                count = 1
            } catch {
                throw error
            }
        }
    }

    /// The entry in `record`; nil unless the record is intact and is that entry.
    private func decode(_ record: Bytes, of group: LogGroup, at index: LogIndex) -> LogEntry? {
        record.withUnsafeBytes { bytes -> LogEntry? in
            guard Record.isIntact(bytes), let decoded = Record.decode(bytes), decoded.byteCount == bytes.count,
                decoded.group == group, decoded.position.index == index, let kind = decoded.kind.entryKind
            else { return nil }
            guard kind == .configuration else {
                let payload = record.suffix(from: Record.headByteCount)
                return LogEntry(position: decoded.position, kind: kind, payload: payload)
            }
            guard let configuration = RecordPayload.configuration(decoded.payload) else { return nil }
            return LogEntry(
                position: decoded.position, kind: kind, payload: Bytes(), configuration: configuration)
        }
    }

    private func read(_ segment: Segment, _ range: Range<Int>) throws(StorageError) -> Bytes {
        let slab = Slab(capacity: range.count)
        let count: Int
        do throws(DiskError) {
            count = try segment.openFile.read(
                into: UnsafeMutableRawBufferPointer(start: slab.base, count: range.count), at: range.lowerBound)
        } catch {
            throw .disk(error)
        }
        guard count == range.count else {
            throw .damaged(file: segment.name, offset: range.lowerBound + count, reason: "the file is cut off")
        }
        return Bytes(slab: slab, offset: 0, count: count)
    }
}
