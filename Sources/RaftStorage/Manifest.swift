import Glibc

/// The list of the log's segments, and whose log it is. A segment is listed, durably, before anything is kept in it;
/// so whatever is listed must be there. The file is replaced as a whole: written under another name, synced, renamed.
struct Manifest: Equatable {
    /// One segment.
    struct Entry: Equatable {
        var number: UInt64
        /// Bytes of the whole segment, fixed at its creation.
        var size: Int
        /// Sequence number of its first batch, the opening seal. Every batch below it was durable when the segment
        /// was listed.
        var firstSequence: UInt64
        /// Where the opening seal ends.
        var firstOffset: Int
    }

    private static let fixedByteCount = 32
    private static let entryByteCount = 32

    /// Of the format, when it was stored.
    var version = LogFormat.version
    /// Drawn when the log was created.
    var identity: UInt64
    /// By number, ascending.
    var segments: [Entry] = []

    /// The manifest of `disk`; nil if there is none.
    static func load(from disk: any Disk) throws(StorageError) -> Manifest? {
        guard disk.exists(LogFormat.manifestName) else { return nil }
        let bytes = try disk.contents(of: LogFormat.manifestName)
        switch bytes.withUnsafeBytes({ decode($0) }) {
        case .read(let manifest):
            return manifest
        case .newer(let version):
            throw .newerFormat(file: LogFormat.manifestName, found: version, known: LogFormat.version)
        case .unreadable:
            throw .damaged(file: LogFormat.manifestName, offset: 0, reason: "the checksum does not match")
        }
    }

    /// Makes this the manifest of `disk`, durably. After ``DiskError/full(path:)`` the old one stands.
    func store(on disk: any Disk) throws(DiskError) {
        let draft = LogFormat.manifestDraftName
        if disk.exists(draft) { try disk.remove(draft) }
        let file = try disk.create(draft)
        defer { file.close() }
        let scratch = Scratch()
        encode(into: scratch)
        do throws(DiskError) {
            try file.write([scratch.bytes], at: 0)
        } catch {
            if case .full = error { try disk.remove(draft) }
            throw error
        }
        try file.sync()
        try disk.rename(draft, to: LogFormat.manifestName)
        do throws(DiskError) {
            try disk.syncDirectory()
        } catch {
            // too late to have changed nothing, even if the device is full
            throw .system(call: "fsync", path: disk.path, errno: EIO)
        }
    }

    func encode(into scratch: Scratch) {
        scratch.append(LogFormat.manifestMagic)
        scratch.append(UInt32(version))
        scratch.append(UInt32(0))
        scratch.append(identity)
        scratch.append(UInt64(segments.count))
        for segment in segments {
            scratch.append(segment.number)
            scratch.append(UInt64(segment.size))
            scratch.append(segment.firstSequence)
            scratch.append(UInt64(segment.firstOffset))
        }
        scratch.store(sealedChecksum(of: scratch.bytes), at: 12)
    }

    static func decode(_ bytes: UnsafeRawBufferPointer) -> Decoded<Manifest> {
        guard bytes.count >= 16, bytes.little(at: 0) == LogFormat.manifestMagic,
            bytes.little(at: 12) == sealedChecksum(of: bytes)
        else { return .unreadable }
        let version: UInt32 = bytes.little(at: 8)
        guard version <= LogFormat.version else { return .newer(version: Int(version)) }
        guard bytes.count >= fixedByteCount,
            let count = Int(exactly: bytes.little(UInt64.self, at: 24)),
            count == (bytes.count - fixedByteCount) / entryByteCount,
            bytes.count == fixedByteCount + count * entryByteCount
        else { return .unreadable }
        var manifest = Manifest(version: Int(version), identity: bytes.little(at: 16))
        for position in 0..<count {
            guard let entry = Entry(bytes, at: fixedByteCount + position * entryByteCount),
                manifest.segments.last.map({ $0.number < entry.number }) ?? true
            else { return .unreadable }
            manifest.segments.append(entry)
        }
        return .read(manifest)
    }
}

extension Disk {
    /// Everything in a file.
    func contents(of name: String) throws(StorageError) -> [UInt8] {
        do throws(DiskError) {
            let file = try open(name)
            defer { file.close() }
            let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: try file.size(), alignment: 8)
            defer { memory.deallocate() }
            let count = try file.read(into: memory, at: 0)
            return Array(memory[..<count])
        } catch {
            throw .disk(error)
        }
    }
}

extension Manifest.Entry {
    fileprivate init?(_ bytes: UnsafeRawBufferPointer, at offset: Int) {
        // locations in memory are 32 bits wide, and another segment may follow
        guard bytes.little(UInt64.self, at: offset) < UInt32.max,
            bytes.little(UInt64.self, at: offset + 16) < LogFormat.countBound,
            let size = UInt32(exactly: bytes.little(UInt64.self, at: offset + 8)),
            let firstOffset = UInt32(exactly: bytes.little(UInt64.self, at: offset + 24)), firstOffset <= size
        else { return nil }
        self.init(
            number: bytes.little(at: offset), size: Int(size), firstSequence: bytes.little(at: offset + 16),
            firstOffset: Int(firstOffset))
    }
}
