import RaftCore

/// What the log knows of its groups, as a file: so that a restart has to read only what was written since.
///
/// A group's part is true up to the batch that it names; the parts of a checkpoint need not name the same one, so that
/// it can be written while the log goes on.
struct Checkpoint {
    /// One group's part.
    struct Part {
        /// The last batch that is included.
        var sequence: UInt64
        var log: GroupLog
    }

    /// What of a group is there.
    private struct Flags: OptionSet {
        var rawValue: UInt32
        static let hardState = Flags(rawValue: 1)
        static let note = Flags(rawValue: 2)
        static let debt = Flags(rawValue: 4)
        static let base = Flags(rawValue: 8)
        static let loss = Flags(rawValue: 16)
    }

    private static let headByteCount = 32
    private static let blockHeadByteCount = 12

    /// Of the log.
    var identity: UInt64
    /// Whatever was written before this segment is included.
    var segment: UInt64
    var parts: [Part] = []

    static func encodeHead(identity: UInt64, segment: UInt64, into scratch: Scratch) {
        let start = scratch.count
        scratch.append(LogFormat.checkpointMagic)
        scratch.append(UInt32(LogFormat.version))
        scratch.append(UInt32(0))
        scratch.append(identity)
        scratch.append(segment)
        scratch.store(sealedChecksum(of: scratch[start..<scratch.count]), at: start + 12)
    }

    /// Appends a block; one without parts is the last.
    static func encodeBlock(_ parts: [Part], into scratch: Scratch) {
        let start = scratch.count
        scratch.append(UInt32(0))
        scratch.append(UInt32(0))
        scratch.append(UInt32(parts.count))
        for part in parts { encode(part, into: scratch) }
        scratch.store(UInt32(scratch.count - start - blockHeadByteCount), at: start + 4)
        scratch.store(Checksum.of(scratch[start + 4..<scratch.count]), at: start)
    }

    private static func encode(_ part: Part, into scratch: Scratch) {
        let log = part.log
        var flags: Flags = []
        if log.hardState != nil { flags.insert(.hardState) }
        if log.note != nil { flags.insert(.note) }
        if log.debt != nil { flags.insert(.debt) }
        if log.entries.base != nil { flags.insert(.base) }
        if log.loss != nil { flags.insert(.loss) }
        scratch.append(log.group)
        scratch.append(part.sequence)
        scratch.append(flags.rawValue)
        if let (state, location) = log.hardState?.pair {
            location.encode(into: scratch)
            scratch.append(state.term.rawValue)
            scratch.append(field: { if let vote = state.vote { $0.append(text: vote.description) } })
        }
        if let (note, location) = log.note?.pair {
            location.encode(into: scratch)
            scratch.append(field: { scratch in note.withUnsafeBytes { scratch.append($0) } })
        }
        if let (debt, location) = log.debt?.pair {
            location.encode(into: scratch)
            scratch.append(position: debt)
        }
        if let (base, location) = log.entries.base?.pair {
            location.encode(into: scratch)
            scratch.append(position: base.position)
            scratch.append(field: { RecordPayload.append(base.configuration, to: $0) })
        }
        if let (loss, location) = log.loss?.pair {
            location.encode(into: scratch)
            scratch.append(field: { RecordPayload.append(loss, to: $0) })
        }
        scratch.append(UInt32(log.entries.runs.runs.count))
        for run in log.entries.runs.runs { scratch.append(position: run) }
        scratch.append(UInt32(log.entries.configurations.count))
        for placed in log.entries.configurations {
            scratch.append(placed.index.rawValue)
            scratch.append(field: { RecordPayload.append(placed.configuration, to: $0) })
        }
        scratch.append(UInt32(log.entries.locations.count))
        for location in log.entries.locations { location.encode(into: scratch) }
    }

    static func decode(_ bytes: UnsafeRawBufferPointer) -> Decoded<Checkpoint> {
        guard bytes.count >= headByteCount, bytes.little(at: 0) == LogFormat.checkpointMagic,
            bytes.little(at: 12) == sealedChecksum(of: bytes.part(0..<headByteCount))
        else { return .unreadable }
        let version: UInt32 = bytes.little(at: 8)
        guard version <= LogFormat.version else { return .newer(version: Int(version)) }
        var checkpoint = Checkpoint(identity: bytes.little(at: 16), segment: bytes.little(at: 24))
        let payloads = PayloadReader()
        var offset = headByteCount
        while true {
            guard bytes.count - offset >= blockHeadByteCount else { return .unreadable }
            let length = Int(bytes.little(UInt32.self, at: offset + 4))
            let start = offset + blockHeadByteCount
            guard length <= bytes.count - start,
                Checksum.of(bytes.part(offset + 4..<start + length)) == bytes.little(at: offset)
            else { return .unreadable }
            let count = Int(bytes.little(UInt32.self, at: offset + 8))
            guard count > 0 else { return start + length == bytes.count ? .read(checkpoint) : .unreadable }
            var reader = CheckpointReader(bytes: bytes.part(start..<start + length), payloads: payloads)
            for _ in 0..<count {
                guard let part = decodePart(&reader) else { return .unreadable }
                checkpoint.parts.append(part)
            }
            guard reader.isAtEnd else { return .unreadable }
            offset = start + length
        }
    }

    private static func decodePart(_ reader: inout CheckpointReader) -> Part? {
        guard let group: UInt64 = reader.number(), let sequence: UInt64 = reader.number(),
            let raw: UInt32 = reader.number(), raw < 32
        else { return nil }
        let flags = Flags(rawValue: raw)
        let log = GroupLog(group: group)
        if flags.contains(.hardState) {
            guard let location = reader.location(), let term: Int64 = reader.number(), let field = reader.field(),
                let vote = reader.payloads.vote(field)
            else { return nil }
            log.hardState = Placed(value: HardState(term: Term(term), vote: vote), location: location)
        }
        if flags.contains(.note) {
            guard let location = reader.location(), let note = reader.field() else { return nil }
            log.note = Placed(value: Bytes(copying: note), location: location)
        }
        if flags.contains(.debt) {
            guard let location = reader.location(), let debt = reader.position() else { return nil }
            log.debt = Placed(value: debt, location: location)
        }
        var base: Placed<LogBase>?
        if flags.contains(.base) {
            guard let location = reader.location(), let position = reader.position(), let field = reader.field(),
                let configuration = reader.payloads.configuration(field)
            else { return nil }
            base = Placed(value: LogBase(position: position, configuration: configuration), location: location)
        }
        if flags.contains(.loss) {
            guard let location = reader.location(), let field = reader.field(), let loss = RecordPayload.damage(field)
            else { return nil }
            log.loss = Placed(value: loss, location: location)
        }
        guard let runs = reader.list({ $0.position() }),
            let configurations = reader.list({ reader -> PlacedConfiguration? in
                guard let index: Int64 = reader.number(), let field = reader.field(),
                    let configuration = reader.payloads.configuration(field)
                else { return nil }
                return PlacedConfiguration(index: LogIndex(index), configuration: configuration)
            }), let locations = reader.list({ $0.location() }),
            let entries = EntryIndex(base: base, runs: runs, configurations: configurations, locations: locations)
        else { return nil }
        log.entries = entries
        return Part(sequence: sequence, log: log)
    }
}

/// Reads the fields of a checkpoint; nil wherever they go beyond the end.
private struct CheckpointReader {
    let bytes: UnsafeRawBufferPointer
    let payloads: PayloadReader
    private var offset = 0

    init(bytes: UnsafeRawBufferPointer, payloads: PayloadReader) {
        self.bytes = bytes
        self.payloads = payloads
    }

    var isAtEnd: Bool { offset == bytes.count }

    mutating func number<T: FixedWidthInteger>() -> T? {
        guard bytes.count - offset >= MemoryLayout<T>.size else { return nil }
        defer { offset += MemoryLayout<T>.size }
        return bytes.little(at: offset)
    }

    mutating func position() -> LogPosition? {
        guard let term: Int64 = number(), let index: Int64 = number() else { return nil }
        return LogPosition(term: Term(term), index: LogIndex(index))
    }

    mutating func location() -> RecordLocation? {
        guard let segment: UInt32 = number(), let start: UInt32 = number(), let count: UInt32 = number(),
            !start.addingReportingOverflow(count).overflow
        else { return nil }
        return RecordLocation(segment: UInt64(segment), offset: Int(start), byteCount: Int(count))
    }

    /// Bytes behind their length.
    mutating func field() -> UnsafeRawBufferPointer? {
        guard let count: UInt32 = number(), Int(count) <= bytes.count - offset else { return nil }
        defer { offset += Int(count) }
        return bytes.part(offset..<offset + Int(count))
    }

    /// Items behind their number. No item is smaller than a byte.
    mutating func list<Item>(_ item: (inout CheckpointReader) -> Item?) -> [Item]? {
        guard let count: UInt32 = number(), Int(count) <= bytes.count - offset else { return nil }
        var items: [Item] = []
        items.reserveCapacity(Int(count))
        for _ in 0..<count {
            guard let next = item(&self) else { return nil }
            items.append(next)
        }
        return items
    }
}

extension Placed {
    fileprivate var pair: (Value, RecordLocation) { (value, location) }
}

extension RecordLocation {
    fileprivate func encode(into scratch: Scratch) {
        scratch.append(segment)
        scratch.append(offset)
        scratch.append(byteCount)
    }
}

extension Scratch {
    fileprivate func append(position: LogPosition) {
        append(position.term.rawValue)
        append(position.index.rawValue)
    }

    /// Appends what `write` appends, behind its length.
    fileprivate func append(field write: (Scratch) -> Void) {
        let start = count
        append(UInt32(0))
        write(self)
        store(UInt32(count - start - 4), at: start)
    }
}

extension EntryIndex {
    /// Nil unless the parts fit together.
    fileprivate init?(
        base: Placed<LogBase>?, runs: [LogPosition], configurations: [PlacedConfiguration],
        locations: [RecordLocation]
    ) {
        let before = base?.value.position ?? .zero
        var previous = before
        guard before.index >= .zero, before.index.rawValue < Int64.max / 2 else { return nil }
        for run in runs {
            guard run.index > previous.index, run.term >= previous.term, run.index.rawValue < Int64.max / 2 else {
                return nil
            }
            previous = run
        }
        guard let first = runs.first?.index else {
            guard locations.isEmpty, configurations.isEmpty else { return nil }
            self.init(base: base, runs: TermRuns(base: before, runs: [], last: .zero), [], [])
            return
        }
        let last = first.advanced(by: locations.count - 1)
        guard first == before.index.next, last >= previous.index,
            zip(locations, locations.dropFirst()).allSatisfy({ $0.segment <= $1.segment }),
            configurations.allSatisfy({ $0.index >= first && $0.index <= last }),
            zip(configurations, configurations.dropFirst()).allSatisfy({ $0.index < $1.index })
        else { return nil }
        self.init(base: base, runs: TermRuns(base: before, runs: runs, last: last), configurations, locations)
    }
}

// MARK: - The file

extension Checkpoint {
    /// The checkpoint of `disk`, if there is one that can be used; else `log` hears why not, and it is removed.
    static func load(
        from disk: any Disk, for manifest: Manifest, log: (String) -> Void
    ) throws(StorageError) -> Checkpoint? {
        let name = LogFormat.checkpointName
        do throws(DiskError) {
            if disk.exists(LogFormat.checkpointDraftName) { try disk.remove(LogFormat.checkpointDraftName) }
        } catch {
            throw .disk(error)
        }
        guard disk.exists(name) else { return nil }
        let problem: String
        switch try read(from: disk, for: manifest) {
        case .success(let checkpoint): return checkpoint
        case .failure(let found): problem = found.reason
        }
        log("wal event=checkpoint-ignored file=\(name) reason=\"\(problem)\"")
        do throws(DiskError) {
            try disk.remove(name)
        } catch {
            throw .disk(error)
        }
        return nil
    }

    /// Why the checkpoint of `disk` cannot be used; nil if it can, or if there is none.
    static func problem(on disk: any Disk, for manifest: Manifest) throws(StorageError) -> String? {
        guard disk.exists(LogFormat.checkpointName), case .failure(let problem) = try read(from: disk, for: manifest)
        else { return nil }
        return problem.reason
    }

    private struct Problem: Error {
        var reason: String
    }

    private static func read(
        from disk: any Disk, for manifest: Manifest
    ) throws(StorageError) -> Result<Checkpoint, Problem> {
        let name = LogFormat.checkpointName
        switch try disk.contents(of: name).withUnsafeBytes({ decode($0) }) {
        case .newer(let version):
            throw .newerFormat(file: name, found: version, known: LogFormat.version)
        case .unreadable:
            return .failure(Problem(reason: "it is damaged"))
        case .read(let checkpoint):
            if let reason = checkpoint.problem(with: manifest, on: disk) { return .failure(Problem(reason: reason)) }
            return .success(checkpoint)
        }
    }

    /// Why this is no checkpoint for the log that the manifest lists; nil if it is one.
    private func problem(with manifest: Manifest, on disk: any Disk) -> String? {
        guard identity == manifest.identity else { return "it belongs to another log" }
        guard manifest.segments.contains(where: { $0.number == segment }) else {
            return "segment \(segment) is not listed"
        }
        let missing = manifest.segments.first {
            $0.number < segment && !disk.exists(LogFormat.segmentName($0.number))
        }
        if let missing { return "segment \(missing.number) is missing" }
        let isInside = placesAreInside(manifest.segments)
        return isInside ? nil : "it names a place that does not exist"
    }

    /// Whether every record lies in one of the segments, or in one that is gone: by the end of the log nothing in that
    /// may be alive.
    private func placesAreInside(_ segments: [Manifest.Entry]) -> Bool {
        guard let last = segments.last?.number else { return parts.isEmpty }
        var sizes: [UInt64: Int] = [:]
        for entry in segments { sizes[entry.number] = entry.size }
        // neighbours mostly lie in the same segment
        var (known, size): (UInt64, Int?) = (0, nil)
        var isInside = true
        for part in parts {
            part.log.forEachLocation { location in
                let number = UInt64(location.segment)
                if number != known { (known, size) = (number, sizes[number]) }
                if number > last || Int(location.end) > size ?? .max { isInside = false }
            }
        }
        return isInside
    }
}

extension WriteAheadLog {
    /// Where the checkpoint stands.
    enum CheckpointState {
        /// The file on the disk, if there is one, needs the segments from this one on.
        case idle(segment: UInt64?)
        /// One is being written that will need the segments from this one on.
        case writing(segment: UInt64)
        /// The file is being removed.
        case removing
    }

    private static var checkpointSliceCount: Int { 512 }

    /// Writes what is known of all groups to a file, so that the next start reads only what is written from now on. The
    /// writer goes on meanwhile: nobody else is held up for longer than a slice of the groups takes. Any one thread, but
    /// the writer. Returns false, with nothing done, while there is nothing to write, or damage that is not settled and
    /// must be found again; ``reclaim()`` writes down what nobody can settle.
    ///
    /// Throws ``StorageError/disk(_:)``; the last checkpoint stands then.
    @discardableResult
    public func checkpoint() throws(StorageError) -> Bool {
        guard let (segment, count) = beginCheckpoint() else { return false }
        var written = false
        defer { endCheckpoint(segment, written: written) }
        do throws(DiskError) {
            try writeCheckpoint(from: segment, groups: count)
            written = true
        } catch {
            throw .disk(error)
        }
        return true
    }

    private func beginCheckpoint() -> (segment: UInt64, groups: Int)? {
        lock.withLock {
            guard case .idle(let old) = checkpointState, !damages.hasUnrecorded, let newest = segments.keys.max()
            else { return nil }
            forgetDropped()
            checkpointBefore = old
            checkpointState = .writing(segment: newest)
            return (newest, groupList.count)
        }
    }

    private func endCheckpoint(_ segment: UInt64, written: Bool) {
        lock.withLock { checkpointState = .idle(segment: written ? segment : checkpointBefore) }
    }

    private func writeCheckpoint(from segment: UInt64, groups: Int) throws(DiskError) {
        let draft = LogFormat.checkpointDraftName
        if disk.exists(draft) { try disk.remove(draft) }
        let file = try disk.create(draft)
        defer { file.close() }
        do throws(DiskError) {
            let scratch = Scratch(capacity: 1 << 16)
            var offset = 0
            Checkpoint.encodeHead(identity: identity, segment: segment, into: scratch)
            for start in stride(from: 0, to: groups, by: WriteAheadLog.checkpointSliceCount) {
                let parts = parts(start..<min(start + WriteAheadLog.checkpointSliceCount, groups))
                // a block without parts is the last
                guard !parts.isEmpty else { continue }
                Checkpoint.encodeBlock(parts, into: scratch)
                try file.write([scratch.bytes], at: offset)
                offset += scratch.count
                scratch.removeAll()
            }
            Checkpoint.encodeBlock([], into: scratch)
            try file.write([scratch.bytes], at: offset)
            try file.sync()
        } catch {
            try? disk.remove(draft)
            throw error
        }
        try disk.rename(draft, to: LogFormat.checkpointName)
        try disk.syncDirectory()
    }

    /// Copies of some groups, as of the last batch.
    private func parts(_ range: Range<Int>) -> [Checkpoint.Part] {
        lock.withLock {
            groupList[range].filter(\.isListed).map { Checkpoint.Part(sequence: rememberedSequence, log: $0.copy()) }
        }
    }

    /// Before segments leave the list from which a restart with the checkpoint would read on: removes it, durably, or
    /// returns how many of them it needs.
    func releaseCheckpoint(before segment: UInt64) throws(DiskError) -> UInt64 {
        let needed = lock.withLock { () -> UInt64? in
            switch checkpointState {
            case .idle(let needed?) where needed < segment:
                checkpointState = .removing
                return nil
            case .idle, .removing: return segment
            case .writing(let needed): return min(needed, checkpointBefore ?? .max, segment)
            }
        }
        if let needed { return needed }
        defer { lock.withLock { checkpointState = .idle(segment: nil) } }
        if disk.exists(LogFormat.checkpointName) { try disk.remove(LogFormat.checkpointName) }
        try disk.syncDirectory()
        return segment
    }
}
