import RaftCore

/// Something that reading a log has found, for an operator.
public struct LogFinding: Equatable, Sendable, CustomStringConvertible {
    /// `damage`: bytes that were durable are lost; `group-hurt`: what that has cost a group in the end; `flaw`: lost, but
    /// harmless; `tail-cut`: a write that was never finished; `checkpoint-ignored`.
    public var event: String
    /// The file it is in.
    public var file: String
    /// Bytes from the file's start.
    public var offset: Int
    /// What is wrong.
    public var reason: String
    /// More, as ` name=value`.
    public var rest = ""

    /// Whether something that was durable is lost.
    public var isDamage: Bool { event == "damage" || event == "group-hurt" }
    /// One line.
    public var description: String { "wal event=\(event) file=\(file) offset=\(offset) reason=\"\(reason)\"\(rest)" }
}

/// What a whole log holds, and what is wrong with it.
public struct LogReport: Sendable {
    /// How many there are.
    public internal(set) var segments = 0
    /// Intact ones, seals included.
    public internal(set) var batches = 0
    /// Of the intact batches.
    public internal(set) var records = 0
    /// Groups that the log has something of.
    public internal(set) var groups = 0
    /// Bytes of the listed segments.
    public internal(set) var bytes = 0
    /// What was found, in the order of the log.
    public internal(set) var findings: [LogFinding] = []
    /// What damage has cost whom.
    public internal(set) var hurt: [LogGroup: GroupDamage] = [:]

    /// Whether nothing that was durable is lost.
    public var isWhole: Bool { hurt.isEmpty && !findings.contains { $0.isDamage } }
}

/// A thing that stands in a segment, in the order in which they stand there.
public enum LogItem: Sendable {
    /// The beginning of a file.
    case segment(file: String, number: UInt64, bytes: Int)
    /// A batch; its records follow. Of a broken one only those do that can be read.
    case batch(file: String, offset: Int, sequence: UInt64, records: Int, bytes: Int, isIntact: Bool)
    /// A record.
    case record(LogRecordInfo)
    /// Bytes that cannot be read.
    case unreadable(file: String, offset: Int, reason: String)
}

/// A record as it stands in the log.
public struct LogRecordInfo: Sendable {
    /// The file it is in.
    public var file: String
    /// Bytes from the file's start.
    public var offset: Int
    /// Bytes, head and payload.
    public var byteCount: Int
    /// Whose.
    public var group: LogGroup
    /// What it is, in words.
    public var kind: String
    /// What it speaks of; see the article on the format.
    public var position: LogPosition
    /// Whether the checksum matches.
    public var isIntact: Bool
}

/// Reads a log without a process that owns it, and never writes a byte. A log in use may be read too: what is being
/// written at that moment is a tail, and damage is believed only if it is still there when it is looked at again.
public enum LogInspection {
    /// Reads every segment of the log of `disk` from the beginning, the checkpoint besides, and tells what is lost.
    ///
    /// Throws ``StorageError/newerFormat(file:found:known:)``, ``StorageError/damaged(file:offset:reason:)`` if the list of
    /// segments cannot be read, ``StorageError/disk(_:)`` also if there is no log.
    public static func verify(_ disk: any Disk) throws(StorageError) -> LogReport {
        var report = try readAll(disk)
        for _ in 1...3 where !report.isWhole {
            let again = try readAll(disk)
            let isSame = again.findings.filter(\.isDamage) == report.findings.filter(\.isDamage)
            report = again
            if isSame { break }
        }
        return report
    }

    private static func readAll(_ disk: any Disk) throws(StorageError) -> LogReport {
        let manifest = try manifest(of: disk)
        var recovery = Recovery(disk: disk, identity: manifest.identity, isReadOnly: true)
        for entry in manifest.segments { try recovery.read(entry) }
        try recovery.finish()
        var report = LogReport()
        report.segments = manifest.segments.count
        report.bytes = manifest.segments.reduce(0) { $0 + $1.size }
        (report.batches, report.records) = (recovery.batchCount, recovery.recordCount)
        report.groups = recovery.groups.count
        report.findings = recovery.findings
        for (group, recovered) in recovery.recoveredGroups { report.hurt[group] = recovered.damage }
        if let problem = try Checkpoint.problem(on: disk, for: manifest) {
            report.findings.append(
                LogFinding(
                    event: "checkpoint-ignored", file: LogFormat.checkpointName, offset: 0, reason: problem))
        }
        return report
    }

    /// Tells everything that stands in a file of the log of `disk`, or in all its listed segments, one thing after the
    /// other. Throws as ``verify(_:)`` does, and what `item` throws.
    public static func dump(
        _ disk: any Disk, file: String? = nil, _ item: (LogItem) throws -> Void
    ) throws {
        if let file { return try dump(file, of: disk, listed: nil, item) }
        let manifest = try manifest(of: disk)
        for entry in manifest.segments {
            let name = LogFormat.segmentName(entry.number)
            guard disk.exists(name) else {
                try item(.unreadable(file: name, offset: 0, reason: "the file is missing"))
                continue
            }
            try dump(name, of: disk, listed: (manifest.identity, entry), item)
        }
    }

    private static func manifest(of disk: any Disk) throws(StorageError) -> Manifest {
        if let manifest = try Manifest.load(from: disk) { return manifest }
        let names: [String]
        do throws(DiskError) {
            names = try disk.list()
            if !names.contains(where: { LogFormat.segmentNumber(of: $0) != nil }) {
                throw .system(call: "open", path: "\(disk.path)/\(LogFormat.manifestName)", errno: 2)
            }
        } catch {
            throw .disk(error)
        }
        throw .damaged(file: LogFormat.manifestName, offset: 0, reason: "it is missing, but there are segments")
    }

    /// A segment; what the list says of it is not known if a file is read by itself.
    private static func dump(
        _ file: String, of disk: any Disk, listed: (identity: UInt64, entry: Manifest.Entry)?,
        _ item: (LogItem) throws -> Void
    ) throws {
        let image: SegmentImage
        do throws(DiskError) {
            let opened = try disk.open(file)
            defer { opened.close() }
            let entry = Manifest.Entry(number: 0, size: try opened.size(), firstSequence: 0, firstOffset: 0)
            image = try SegmentImage(of: opened, entry: entry)
        } catch {
            throw StorageError.disk(error)
        }
        let header: SegmentHeader
        switch SegmentHeader.decode(image.bytes) {
        case .newer(let version):
            throw StorageError.newerFormat(file: file, found: version, known: LogFormat.version)
        case .unreadable:
            let reason = "it does not begin as a segment"
            guard let (identity, entry) = listed else {
                throw StorageError.damaged(file: file, offset: 0, reason: reason)
            }
            try item(.unreadable(file: file, offset: 0, reason: reason))
            header = SegmentHeader(
                identity: identity, number: entry.number, size: entry.size, firstSequence: entry.firstSequence)
        case .read(let found): header = found
        }
        try item(.segment(file: file, number: header.number, bytes: header.size))
        var offset = SegmentHeader.byteCount
        while offset < image.contentEnd {
            let place = LogPlace(segment: header.number, offset: offset)
            if let batch = BatchHeader.decode(image.bytes, at: place, identity: header.identity) {
                try dump(batch, in: image, file, item)
                offset = batch.end
                continue
            }
            try item(.unreadable(file: file, offset: offset, reason: "no batch header can be read"))
            repeat {
                offset += LogFormat.alignment
            } while offset < image.contentEnd
                && BatchHeader.decode(
                    image.bytes, at: LogPlace(segment: header.number, offset: offset), identity: header.identity)
                    == nil
        }
    }

    private static func dump(
        _ batch: BatchHeader, in image: SegmentImage, _ file: String, _ item: (LogItem) throws -> Void
    ) throws {
        try item(
            .batch(
                file: file, offset: batch.place.offset, sequence: batch.sequence, records: batch.recordCount,
                bytes: batch.end - batch.place.offset, isIntact: batch.hasIntactBody(in: image.bytes)))
        let end = batch.bodyOffset + batch.bodyByteCount
        var offset = batch.bodyOffset
        while offset < end {
            guard let record = Record.decode(image.bytes.part(offset..<end)) else {
                return try item(.unreadable(file: file, offset: offset, reason: "no record can be read"))
            }
            let isIntact = Record.isIntact(image.bytes.part(offset..<offset + record.byteCount))
            try item(
                .record(
                    LogRecordInfo(
                        file: file, offset: offset, byteCount: record.byteCount, group: record.group,
                        kind: record.kind.name, position: record.position, isIntact: isIntact)))
            offset += record.byteCount
        }
    }
}

extension RecordKind {
    /// In words.
    fileprivate var name: String {
        switch self {
        case .hardState: "hard-state"
        case .truncate: "truncate"
        case .data: "data"
        case .noOp: "no-op"
        case .configuration: "configuration"
        case .note: "note"
        case .compact: "compact"
        case .reset: "reset"
        case .debt: "debt"
        case .debtPaid: "debt-paid"
        case .promisesLost: "promises-lost"
        case .dropped: "dropped"
        }
    }
}
