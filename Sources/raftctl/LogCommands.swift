import Glibc
import RaftStorage

// Commands about a node's log, read from its directory without the node.

extension Command {
    static let logDump = Command(
        path: ["log", "dump"], arguments: "FILE|DIR", positionals: 1...1,
        summary: "list what stands in a segment, or in a whole log",
        details: """
            DIR is a node's data directory, or the log in it. Nothing is written, and the node may run meanwhile: what it
            is writing at that moment may look broken. A line for each segment, batch and record: where it begins, how
            long it is, what it is, and whether its checksum matches.
            """,
        run: { invocation throws(Failure) in
            let (disk, file) = try place(of: invocation.positionals[0])
            let printer = LogPrinter(isJSON: invocation.format == .json)
            do {
                try printer.begin()
                try LogInspection.dump(disk, file: file) { try printer.print($0) }
                try printer.end()
            } catch let error as Failure {
                throw error
            } catch {
                try printer.end()
                throw .failed("\(error)")
            }
        })

    static let logVerify = Command(
        path: ["log", "verify"], arguments: "DIR", positionals: 1...1,
        summary: "check every byte of a log, and say who is hurt by damage",
        details: """
            DIR is a node's data directory, or the log in it. Everything is read, the checkpoint does not shorten it.
            Nothing is written, and the node may run meanwhile: damage counts only if it is still there when it is looked
            at again, and a write that is not finished is no damage.

            Exit status: 0 the log is whole; 1 something that was durable is lost, or there is no log to be read.
            """,
        run: { invocation throws(Failure) in
            let path = invocation.positionals[0]
            let (disk, file) = try place(of: path)
            guard file == nil else { throw .usage("\(path) is a file; log verify takes a directory") }
            let report: LogReport
            do throws(StorageError) {
                report = try LogInspection.verify(disk)
            } catch {
                throw .failed("\(path): \(error)")
            }
            try Output.print(invocation.format == .json ? report.json.text : report.text)
            guard report.isWhole else {
                let groups = report.hurt.count == 1 ? "1 group is" : "\(report.hurt.count) groups are"
                throw .failed(
                    "\(path): the log is damaged, \(groups) hurt; the node says at its start what it does about it")
            }
        })

    /// The directory to read, and the one file in it, if `path` names one.
    private static func place(of path: String) throws(Failure) -> (disk: PosixDisk, file: String?) {
        var status = stat()
        guard stat(path, &status) == 0 else { throw .failed("\(path): \(String(cString: strerror(errno)))") }
        do throws(DiskError) {
            if status.st_mode & S_IFMT == S_IFDIR {
                let inner = path + "/log"
                let isDataDirectory = stat(inner, &status) == 0 && status.st_mode & S_IFMT == S_IFDIR
                return (try PosixDisk(reading: isDataDirectory ? inner : path), nil)
            }
            let slash = path.lastIndex(of: "/")
            let parent = slash.map { $0 == path.startIndex ? "/" : String(path[..<$0]) } ?? "."
            let name = slash.map { String(path[path.index(after: $0)...]) } ?? path
            return (try PosixDisk(reading: parent), name)
        } catch {
            throw .failed(error.description)
        }
    }
}

/// Writes a log's items as lines, or as one JSON object with a line for each.
private final class LogPrinter {
    private let isJSON: Bool
    private var output = Output()
    private var isFirst = true

    init(isJSON: Bool) {
        self.isJSON = isJSON
    }

    func begin() throws(Failure) {
        if isJSON { try output.write("{\"items\":[") }
    }

    func print(_ item: LogItem) throws(Failure) {
        if isJSON {
            try output.write((isFirst ? "\n" : ",\n") + item.json.text)
        } else {
            try output.write(item.text + "\n")
        }
        isFirst = false
    }

    func end() throws(Failure) {
        if isJSON { try output.write("\n]}\n") }
        try output.flush()
    }
}

extension LogItem {
    /// One line.
    var text: String {
        switch self {
        case .segment(let file, let number, let bytes): "\(file) segment \(number), \(bytes) bytes"
        case .batch(_, let offset, let sequence, let records, let bytes, let isIntact):
            "  \(offset) batch \(sequence), \(records) records, \(bytes) bytes\(isIntact ? "" : ", BROKEN")"
        case .record(let record):
            "    \(record.offset) \(record.kind) group \(record.group) \(record.position), \(record.byteCount) bytes"
                + (record.isIntact ? "" : ", BROKEN")
        case .unreadable(_, let offset, let reason): "  \(offset) UNREADABLE: \(reason)"
        }
    }

    var json: JSON {
        switch self {
        case .segment(let file, let number, let bytes):
            .object([
                ("item", .string("segment")), ("file", .string(file)), ("number", .unsigned(number)),
                ("bytes", .integer(Int64(bytes))),
            ])
        case .batch(let file, let offset, let sequence, let records, let bytes, let isIntact):
            .object([
                ("item", .string("batch")), ("file", .string(file)), ("offset", .integer(Int64(offset))),
                ("sequence", .unsigned(sequence)), ("records", .integer(Int64(records))),
                ("bytes", .integer(Int64(bytes))), ("intact", .bool(isIntact)),
            ])
        case .record(let record):
            .object([
                ("item", .string("record")), ("file", .string(record.file)),
                ("offset", .integer(Int64(record.offset))), ("bytes", .integer(Int64(record.byteCount))),
                ("group", .unsigned(record.group)), ("kind", .string(record.kind)),
                ("term", .integer(record.position.term.rawValue)), ("index", .integer(record.position.index.rawValue)),
                ("intact", .bool(record.isIntact)),
            ])
        case .unreadable(let file, let offset, let reason):
            .object([
                ("item", .string("unreadable")), ("file", .string(file)), ("offset", .integer(Int64(offset))),
                ("reason", .string(reason)),
            ])
        }
    }
}

extension LogReport {
    private var hurtByGroup: [(group: UInt64, damage: GroupDamage)] {
        hurt.map { ($0.key, $0.value) }.sorted { $0.0 < $1.0 }
    }

    /// A line for what was read, one for each finding, one for each group that is hurt.
    var text: String {
        let read = "\(segments) segments, \(bytes) bytes, \(batches) batches, \(records) records, \(groups) groups"
        let lines = findings.map { "\($0.event): \($0.file) at \($0.offset): \($0.reason)\($0.rest)" }
        let costs = hurtByGroup.map { "hurt: group \($0.group) has lost \($0.damage.loss)" }
        return ([read] + lines + costs + (isWhole ? ["whole"] : [])).joined(separator: "\n")
    }

    var json: JSON {
        .object([
            ("whole", .bool(isWhole)), ("segments", .integer(Int64(segments))), ("bytes", .integer(Int64(bytes))),
            ("batches", .integer(Int64(batches))), ("records", .integer(Int64(records))),
            ("groups", .integer(Int64(groups))),
            (
                "findings",
                .array(
                    findings.map {
                        .object([
                            ("event", .string($0.event)), ("file", .string($0.file)),
                            ("offset", .integer(Int64($0.offset))), ("reason", .string($0.reason + $0.rest)),
                        ])
                    })
            ),
            (
                "hurt",
                .array(
                    hurtByGroup.map {
                        .object([
                            ("group", .unsigned($0.group)), ("lost", .string($0.damage.loss)),
                            ("reason", .string($0.damage.reason)),
                        ])
                    })
            ),
        ])
    }
}

extension GroupDamage {
    /// What is lost, in words.
    fileprivate var loss: String {
        switch self {
        case .entries(let debt, _): "entries, of up to \(debt)"
        case .promises: "what it promised"
        }
    }
}
