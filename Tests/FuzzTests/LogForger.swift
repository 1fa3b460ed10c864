import RaftCore

@testable import RaftStorage

/// Changes the numbers in a log's files as somebody would who knows the format, and puts the checksums right again: so
/// what stands behind them is reached.
struct LogForger {
    /// Which checksums are put right.
    enum Care: Int, CaseIterable {
        /// None.
        case none
        /// Those of the manifest and of the heads of segments and batches.
        case heads
        /// Those of summaries, records and bodies too.
        case everything
    }

    /// A number in a file.
    struct Field {
        var file: String
        var offset: Int
        var byteCount: Int
    }

    private let disk: MemoryDisk
    private let fields: [Field]

    /// Forges what is on `disk`; `fields` are those of its log while that was whole.
    init(_ disk: MemoryDisk, fields: [Field]) {
        self.disk = disk
        self.fields = fields
    }

    /// The numbers of a whole log.
    static func fields(of disk: MemoryDisk) -> [Field] {
        var fields: [Field] = []
        for (file, bytes) in LogForger.files(of: disk) {
            let numbers = bytes.withUnsafeBytes {
                file == LogFormat.manifestName ? LogForger.manifestFields($0) : LogForger.segmentFields($0)
            }
            fields += numbers.map { Field(file: file, offset: $0.offset, byteCount: $0.byteCount) }
        }
        return fields
    }

    /// Gives one number another value: any, or one nearby.
    func change(_ choices: inout Choices) {
        let field = fields[choices.short() % fields.count]
        let isNear = choices.flag()
        let number = choices.anyNumber()
        edit(field.file) { bytes in
            guard field.offset + field.byteCount <= bytes.count else { return }
            let places = field.offset..<field.offset + field.byteCount
            let old = places.reversed().reduce(UInt64(0)) { $0 << 8 | UInt64(bytes[$1]) }
            let new = isNear ? old &+ UInt64(bitPattern: number) &- 8 : UInt64(bitPattern: number)
            for (shift, place) in places.enumerated() {
                bytes[place] = UInt8(truncatingIfNeeded: new >> UInt64(8 * shift))
            }
        }
    }

    /// Copies a stretch of one file over a stretch of the same or another one.
    func copy(_ choices: inout Choices) {
        let files = LogForger.files(of: disk)
        let source = files[choices.number(below: files.count)].bytes
        let target = files[choices.number(below: files.count)].name
        let (from, to) = (choices.short(), choices.short())
        let stretch = source.dropFirst(from % max(1, source.count)).prefix(Int(choices.byte()) * 4)
        edit(target) { bytes in
            let start = to % max(1, bytes.count)
            let count = min(stretch.count, bytes.count - start)
            bytes.replaceSubrange(start..<start + count, with: stretch.prefix(count))
        }
    }

    /// Puts right the checksums that `care` says.
    func repair(_ care: Care) {
        guard care != .none else { return }
        for (name, _) in LogForger.files(of: disk) {
            edit(name) { bytes in
                if name == LogFormat.manifestName {
                    LogForger.seal(&bytes, 0..<bytes.count)
                } else {
                    LogForger.seal(&bytes, 0..<SegmentHeader.byteCount)
                    LogForger.repairBatches(&bytes, care)
                }
            }
        }
    }

    private func edit(_ file: String, _ change: (inout [UInt8]) -> Void) {
        guard var bytes = disk.contents(file) else { return }
        change(&bytes)
        disk.setContents(file, bytes)
    }

    /// The manifest and the segments that are there.
    private static func files(of disk: MemoryDisk) -> [(name: String, bytes: [UInt8])] {
        let names = (try? disk.list()) ?? []
        return names.compactMap { name in disk.contents(name).map { (name, $0) } }
    }
}

// MARK: Where the numbers are

extension LogForger {
    private typealias Place = (offset: Int, byteCount: Int)

    private static func manifestFields(_ bytes: UnsafeRawBufferPointer) -> [Place] {
        [(8, 4)] + stride(from: 16, to: bytes.count, by: 8).map { ($0, 8) }
    }

    private static func segmentFields(_ bytes: UnsafeRawBufferPointer) -> [Place] {
        var places: [Place] = [(8, 4), (16, 8), (24, 8), (32, 8), (40, 8)]
        for offset in batches(in: bytes) {
            places += [(16, 8), (24, 8), (32, 8), (40, 8), (48, 8), (56, 8), (64, 8), (76, 4), (80, 4), (84, 4)]
                .map { (offset + $0.0, $0.1) }
            guard let parts = BatchParts(bytes, at: offset) else { continue }
            for summary in stride(from: parts.summaries.lowerBound, to: parts.summaries.upperBound, by: 28) {
                places += [(0, 8), (8, 4), (12, 8), (20, 8)].map { (summary + $0.0, $0.1) }
            }
            for record in parts.records {
                places += [(4, 4), (8, 8), (16, 8), (24, 8), (32, 1), (36, 4), (40, 4)]
                    .map { (record.lowerBound + $0.0, $0.1) }
            }
        }
        return places
    }

    /// Where something stands that claims to be a batch.
    private static func batches(in bytes: UnsafeRawBufferPointer) -> [Int] {
        (0..<max(0, bytes.count - BatchHeader.fixedByteCount + 1))
            .filter { bytes[$0] == UInt8(ascii: "F") && bytes.little(at: $0) == LogFormat.batchMagic }
    }

    /// What follows a batch's fixed bytes, as far as they are to be believed.
    private struct BatchParts {
        var summaries: Range<Int>
        var body: Range<Int>
        var records: [Range<Int>] = []

        /// Nil if the parts are longer than the file.
        init?(_ bytes: UnsafeRawBufferPointer, at offset: Int) {
            let start = offset + BatchHeader.fixedByteCount
            let count =
                Int(bytes.little(UInt32.self, at: offset + 80)) + Int(bytes.little(UInt32.self, at: offset + 84))
            let bodyStart = start + count * GroupSummary.byteCount
            guard let bodyByteCount = Int(exactly: bytes.little(UInt64.self, at: offset + 64)),
                bodyStart <= bytes.count, bodyByteCount <= bytes.count - bodyStart
            else { return nil }
            summaries = start..<bodyStart
            body = bodyStart..<bodyStart + bodyByteCount
            var next = body.lowerBound
            while let record = Record.decode(bytes.part(next..<body.upperBound)) {
                records.append(next..<next + record.byteCount)
                next += record.byteCount
            }
        }
    }
}

// MARK: Checksums

extension LogForger {
    private static func repairBatches(_ bytes: inout [UInt8], _ care: Care) {
        for offset in bytes.withUnsafeBytes({ batches(in: $0) }) {
            if care == .everything, let parts = bytes.withUnsafeBytes({ BatchParts($0, at: offset) }) {
                for record in parts.records { store(record.lowerBound + 4..<record.upperBound, at: record.lowerBound) }
                store(parts.body, at: offset + 72)
                store(parts.summaries, at: offset + 8)
            }
            seal(&bytes, offset..<offset + BatchHeader.fixedByteCount)
        }

        /// The checksum of `range`.
        func store(_ range: Range<Int>, at offset: Int) {
            put(bytes.withUnsafeBytes { Checksum.of($0.part(range)) }, at: offset, &bytes)
        }
    }

    /// The checksum of a head that holds it itself.
    private static func seal(_ bytes: inout [UInt8], _ head: Range<Int>) {
        guard head.count >= 16, head.upperBound <= bytes.count else { return }
        put(bytes.withUnsafeBytes { sealedChecksum(of: $0.part(head)) }, at: head.lowerBound + 12, &bytes)
    }

    private static func put(_ number: UInt32, at offset: Int, _ bytes: inout [UInt8]) {
        for shift in 0..<4 { bytes[offset + shift] = UInt8(truncatingIfNeeded: number >> UInt32(8 * shift)) }
    }
}
