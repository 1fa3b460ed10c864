import Glibc
import RaftCore
import ShardMap

// Commands about files of records.

extension Command {
    private static let pumpOptions = [
        CommandOption("format", "tsv|jsonl", "the lines' format (default: jsonl if the name ends so, else tsv)"),
        CommandOption("total", "N", "records to expect, for the progress bar"),
        CommandOption("concurrency", "N", "batches of up to 64 records in flight (default 16)"),
        CommandOption("retry-for", "SECONDS", "how long to repeat what the cluster cannot serve (default 60)"),
    ]

    static let importRecords = Command(
        path: ["kv", "import"], arguments: "FILE|-", positionals: 1...1, options: pumpOptions,
        summary: "store every record of a file",
        details: """
            One record a line. Empty lines are skipped, a carriage return at a line's end is dropped.

            tsv    key, tab, value. Escapes: \\\\ backslash, \\n line feed, \\r carriage return, \\t tab, \\0 zero,
                   \\xHH the byte with that hexadecimal number. Every other byte stands for itself.
            jsonl  {"key":"…","value":"…"}; for bytes that are not UTF-8, key_base64 and value_base64 instead.

            Of several lines with the same key the last one wins. A malformed line ends the import; what was
            imported before stays. Importing a file again is harmless. The last line is "N imported".
            """,
        run: { invocation throws(Failure) in
            let totals = try await pump(
                invocation, "import", operation: { KeyOperation(.set, key: $0.key, value: $0.value) },
                judge: { _, _ in .asExpected })
            if let failure = totals.failure {
                throw Failure(
                    status: failure.status, message: "\(failure.message); \(totals.done) records were imported and stay"
                )
            }
            let json = JSON.object([("imported", .integer(Int64(totals.done)))])
            try Output.print(invocation.format == .json ? json.text : "\(totals.done) imported")
        })

    static let verify = Command(
        path: ["kv", "verify"], arguments: "FILE|-", positionals: 1...1, options: pumpOptions,
        summary: "read every record of a file back, and compare",
        details: """
            Formats as in `raftctl help kv import`. Reads are linearizable. Names every key that is missing or different
            on standard error, and fails if there is one. A file with a key twice cannot be verified. The last line is
            "N verified, M missing, D different".
            """,
        run: { invocation throws(Failure) in
            let totals = try await pump(
                invocation, "verify", operation: { KeyOperation(.get, key: $0.key) },
                judge: { record, result in
                    guard let value = result.value else { return .missing }
                    return value == record.value ? .asExpected : .different
                })
            let (missing, different) = (totals.missing, totals.different)
            if let failure = totals.failure {
                let result = "\(totals.done) verified, \(missing) missing, \(different) different before that"
                throw Failure(status: failure.status, message: "\(failure.message); \(result)")
            }
            let json = JSON.object([
                ("verified", .integer(Int64(totals.done))), ("missing", .integer(Int64(missing))),
                ("different", .integer(Int64(different))),
            ])
            let result = "\(totals.done) verified, \(missing) missing, \(different) different"
            try Output.print(invocation.format == .json ? json.text : result)
            guard missing + different == 0 else {
                throw .failed("the store does not hold what the file says: \(missing) missing, \(different) different")
            }
        })

    private static func pump(
        _ invocation: Invocation, _ action: String, operation: @escaping @Sendable (Record) -> KeyOperation,
        judge: @escaping @Sendable (Record, KeyResult) -> RecordPump.Judgement
    ) async throws(Failure) -> RecordPump.Totals {
        let path = invocation.positionals[0]
        let total = try invocation.integer("total", in: 0...Int.max)
        let concurrency = try invocation.integer("concurrency", in: 1...1024) ?? 16
        let patience = try invocation.integer("retry-for", in: 0...86_400) ?? 60
        let source = try RecordSource(path: path, format: try .of(invocation, path: path))
        let cluster = try Cluster(invocation)
        _ = try await cluster.map()
        let progress = Progress(action, totalRecords: total, totalFileBytes: source.fileBytes)
        let pump = RecordPump(
            cluster: cluster, source: source, progress: progress, concurrency: concurrency,
            patience: .seconds(patience), operation: operation, judge: judge, action: action)
        return await pump.run()
    }

    static let exportRecords = Command(
        path: ["kv", "export"], arguments: "[FILE]", positionals: 0...1,
        options: [
            CommandOption("format", "tsv|jsonl", "the lines' format (default: jsonl if the name ends so, else tsv)")
        ],
        summary: "write every record to a file, or to standard output",
        details: """
            Formats as in `raftctl help kv import`, in the order of keys. Each shard's part is read linearizably; the
            whole is not a snapshot. FILE appears, or is replaced, only when the export is complete; a pipe or device
            is written to.
            """,
        run: { invocation throws(Failure) in
            let path = invocation.positionals.first.flatMap { $0 == "-" ? nil : $0 }
            let format = try RecordFormat.of(invocation, path: path ?? "-")
            let whole = KeyRange(start: Bytes(), end: Bytes())
            let walk = Walk(cluster: try Cluster(invocation), range: whole, limit: .max)
            guard let path else {
                Output.complain("\(try await write(walk, format, to: Output())) exported")
                return
            }
            let count = try await ReplacedFile(path).write { output throws(Failure) in
                try await write(walk, format, to: output)
            }
            let json = JSON.object([("exported", .integer(Int64(count)))])
            try Output.print(invocation.format == .json ? json.text : "\(count) exported")
        })

    /// Writes all pairs; their number.
    private static func write(_ walk: Walk, _ format: RecordFormat, to output: Output) async throws(Failure) -> Int {
        var output = output
        var count = 0
        try await walk.run { page throws(Failure) in
            for pair in page {
                var line: [UInt8] = []
                format.append(Record(key: pair.key, value: pair.value), to: &line)
                try output.write(line)
            }
            count += page.count
        }
        try output.flush()
        return count
    }
}

/// A file that appears under its name only when it is complete and on disk. What is there and no file, such as a pipe
/// or a device, is written to instead.
struct ReplacedFile {
    private let path: String
    private var partial: String { "\(path).partial" }

    init(_ path: String) { self.path = path }

    private var isSpecial: Bool {
        var status = stat()
        return stat(path, &status) == 0 && status.st_mode & S_IFMT != S_IFREG
    }

    func write(_ body: (Output) async throws(Failure) -> Int) async throws(Failure) -> Int {
        if isSpecial {
            let descriptor = open(path, O_WRONLY | O_CLOEXEC)
            guard descriptor >= 0 else { throw problem("write", path) }
            defer { close(descriptor) }
            return try await body(Output(descriptor: descriptor, name: path))
        }
        let descriptor = open(partial, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o666)
        guard descriptor >= 0 else { throw problem("create", partial) }
        defer { close(descriptor) }
        do throws(Failure) {
            let count = try await body(Output(descriptor: descriptor, name: partial))
            guard fsync(descriptor) == 0 else { throw problem("write", partial) }
            guard rename(partial, path) == 0 else { throw problem("replace", path) }
            return count
        } catch {
            unlink(partial)
            throw error
        }
    }

    private func problem(_ verb: String, _ name: String) -> Failure {
        .failed("cannot \(verb) \(name): \(String(cString: strerror(errno)))")
    }
}
