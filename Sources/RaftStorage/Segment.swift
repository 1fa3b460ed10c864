/// A file of the log, of fixed size and preallocated, so that an append changes no metadata and cannot run out of
/// space. It stays open as long as the log.
final class Segment: Sendable {
    let entry: Manifest.Entry
    /// Nil if the file is missing, which is damage.
    let file: (any DiskFile)?

    var number: UInt64 { entry.number }
    /// Of a segment that is written or read: its file is there.
    var openFile: any DiskFile {
        guard let file else { preconditionFailure("\(name) is not open") }
        return file
    }
    var name: String { LogFormat.segmentName(entry.number) }

    init(entry: Manifest.Entry, file: (any DiskFile)?) {
        self.entry = entry
        self.file = file
    }

    /// Opens a listed segment.
    static func open(_ entry: Manifest.Entry, on disk: any Disk) throws(DiskError) -> Segment {
        let name = LogFormat.segmentName(entry.number)
        return Segment(entry: entry, file: disk.exists(name) ? try disk.open(name) : nil)
    }

    /// Creates a segment that holds its header and its opening seal, all durable. It is not listed yet. After
    /// ``DiskError/full(path:)`` nothing is left of it.
    static func create(
        number: UInt64, size: Int, seal: BatchHeader, repeating previous: ContiguousArray<GroupSummary>,
        on disk: any Disk
    ) throws(DiskError) -> Segment {
        let name = LogFormat.segmentName(number)
        if disk.exists(name) { try disk.remove(name) }
        let file = try disk.create(name)
        do throws(DiskError) {
            try file.preallocate(size)
        } catch {
            file.close()
            if case .full = error { try disk.remove(name) }
            throw error
        }
        let scratch = Scratch()
        let header = SegmentHeader(
            identity: seal.identity, number: number, size: size, firstSequence: seal.sequence)
        header.encode(into: scratch)
        seal.encode(own: [], previous: previous, into: scratch)
        try file.write([scratch.bytes], at: 0)
        try file.sync()
        try disk.syncDirectory()
        let entry = Manifest.Entry(
            number: number, size: size, firstSequence: seal.sequence,
            firstOffset: LogFormat.aligned(scratch.count))
        return Segment(entry: entry, file: file)
    }
}

/// The bytes of a segment in memory, as recovery looks at them: always of full size, zeros where the file is short.
final class SegmentImage {
    let entry: Manifest.Entry
    private let memory: UnsafeMutableRawBufferPointer
    /// Size of the file.
    let fileByteCount: Int
    /// Behind the last byte that is not zero.
    let contentEnd: Int

    var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(memory) }
    /// Whether the file has lost its end. No crash does that: the file had its size before it was listed.
    var isShort: Bool { fileByteCount < entry.size }

    init(of file: any DiskFile, entry: Manifest.Entry) throws(DiskError) {
        let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: entry.size, alignment: 8)
        self.entry = entry
        self.memory = memory
        let count: Int
        do throws(DiskError) {
            count = try file.read(into: memory, at: 0)
            fileByteCount = try file.size()
        } catch {
            memory.deallocate()
            throw error
        }
        UnsafeMutableRawBufferPointer(rebasing: memory[count...]).initializeMemory(as: UInt8.self, repeating: 0)
        contentEnd = SegmentImage.contentEnd(of: UnsafeRawBufferPointer(memory))
    }

    deinit { memory.deallocate() }

    /// The batch header at `offset`; nil if none stands there.
    func header(at offset: Int, identity: UInt64) -> BatchHeader? {
        BatchHeader.decode(bytes, at: LogPlace(segment: entry.number, offset: offset), identity: identity)
    }

    /// The first batch header at or behind `offset`, numbered `sequence` or higher.
    func nextHeader(from offset: Int, sequence: UInt64, identity: UInt64) -> BatchHeader? {
        var offset = LogFormat.aligned(offset)
        while offset < contentEnd {
            if let header = header(at: offset, identity: identity), header.sequence >= sequence { return header }
            offset += LogFormat.alignment
        }
        return nil
    }

    /// The records of a batch with an intact body, and where each starts; nil if they do not add up.
    func records(of header: BatchHeader) -> [(offset: Int, record: Record)]? {
        let end = header.bodyOffset + header.bodyByteCount
        var records: [(offset: Int, record: Record)] = []
        var offset = header.bodyOffset
        while offset < end {
            guard let record = Record.decode(bytes.part(offset..<end)) else { return nil }
            records.append((offset, record))
            offset += record.byteCount
        }
        return records.count == header.recordCount ? records : nil
    }

    /// The records of a batch with a broken body in front of the first broken one, and where each starts.
    func intactRecords(of header: BatchHeader) -> [(offset: Int, record: Record)] {
        let end = header.bodyOffset + header.bodyByteCount
        var records: [(offset: Int, record: Record)] = []
        var offset = header.bodyOffset
        while offset < end, let record = Record.decode(bytes.part(offset..<end)),
            Record.isIntact(bytes.part(offset..<offset + record.byteCount))
        {
            records.append((offset, record))
            offset += record.byteCount
        }
        return records
    }

    private static func contentEnd(of bytes: UnsafeRawBufferPointer) -> Int {
        var end = bytes.count
        while end >= 8, bytes.little(UInt64.self, at: end - 8) == 0 { end -= 8 }
        while end > 0, bytes[end - 1] == 0 { end -= 1 }
        return end
    }
}
