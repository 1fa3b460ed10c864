import ClusterProcesses
import Glibc
import RaftCore
import RaftStorage

let logCommand = Command(
    name: "log",
    summary: "what the write-ahead log makes of a disk, beside a plain loop of write and fdatasync",
    options: [
        CommandOption(
            name: "groups", value: "N,…", help: "groups that write one record each at a time (1,16,256,4096)"),
        CommandOption(name: "value-bytes", value: "N", help: "bytes of such a record's payload (128)"),
        CommandOption(name: "large-bytes", value: "N", help: "bytes of the one record of the last row (1048576)"),
        CommandOption(name: "seconds", value: "S", help: "length of a run (1)"),
        CommandOption(name: "runs", value: "N", help: "runs of each row, log and plain in turn (5)"),
        CommandOption(name: "directory", value: "DIR", help: "where to write; a folder in it, which is removed (.)"),
    ],
    run: { (arguments) throws(UsageError) in
        let groups = try arguments.numbers("groups", in: 1...100_000, default: [1, 16, 256, 4096])
        let valueBytes = try arguments.number("value-bytes", in: 0...1 << 20, default: 128)
        let largeBytes = try arguments.number("large-bytes", in: 1...32 << 20, default: 1 << 20)
        let seconds = try arguments.seconds("seconds", default: 1)
        let runs = try arguments.number("runs", in: 1...1000, default: 5)
        let directory = arguments.text("directory") ?? "."
        var rows = groups.map { LogRow(groups: $0, recordBytes: valueBytes) }
        rows.append(LogRow(groups: 1, recordBytes: largeBytes))
        let folder = "\(directory)/raftbench-log.\(getpid())"
        ProcessGuard.note(directory: folder)
        do throws(StorageError) {
            for run in 0..<runs {
                for position in rows.indices {
                    try rows[position].run(seconds: seconds, in: folder, logFirst: run % 2 == 0)
                }
            }
        } catch {
            throw UsageError(text: "cannot measure in \(folder): \(error)")
        }
        let title =
            "one batch and one sync at a time, in turn with a plain loop of the same payloads; medians of \(runs)"
            + " runs of \(seconds) s, ratios of log to plain of neighbouring runs"
        return Report(text: ([title, LogRow.header] + rows.map(\.line)).map { $0 + "\n" }.joined(), complaint: nil)
    })

/// Runs of one setting: each batch has one record of every group.
struct LogRow {
    /// What one run did.
    struct Run: Equatable {
        var seconds = 0.0
        var bytes = 0
        /// Of each batch, in seconds.
        var latencies: [Double] = []

        var bytesPerSecond: Double { Double(bytes) / seconds }
        var syncsPerSecond: Double { Double(latencies.count) / seconds }
    }

    let groups: Int
    let recordBytes: Int
    private(set) var log: [Run] = []
    private(set) var plain: [Run] = []

    init(groups: Int, recordBytes: Int) {
        self.groups = groups
        self.recordBytes = recordBytes
    }

    /// Runs the log and the plain loop once more, one after the other.
    mutating func run(seconds: Double, in folder: String, logFirst: Bool) throws(StorageError) {
        for isLog in [logFirst, !logFirst] {
            if isLog {
                let writer = try LogWriter(groups: groups, recordBytes: recordBytes, folder: folder)
                note(log: try measure(seconds, writer), plain: nil)
                try writer.remove()
            } else {
                let writer = try PlainWriter(groups: groups, recordBytes: recordBytes, folder: folder)
                note(log: nil, plain: try measure(seconds, writer))
                try writer.remove()
            }
        }
    }

    mutating func note(log: Run?, plain: Run?) {
        if let log { self.log.append(log) }
        if let plain { self.plain.append(plain) }
    }

    /// What a run writes at most: a fast disk must not be filled.
    private static let bytesPerRun = 1 << 30

    private func measure(_ seconds: Double, _ writer: some BatchWriter) throws(StorageError) -> Run {
        // the first batches find nothing prepared
        for _ in 0..<8 { try writer.writeBatch() }
        var run = Run()
        let start = monotonicSeconds()
        var last = start
        while last - start < seconds, run.bytes < LogRow.bytesPerRun {
            try writer.writeBatch()
            let now = monotonicSeconds()
            run.latencies.append(now - last)
            run.bytes += groups * recordBytes
            last = now
        }
        run.seconds = last - start
        return run
    }
}

extension LogRow {
    private static let columns = [
        "groups", "record bytes", "records/sync", "  bytes/s", "syncs/s", "p50 us", "p99 us", "plain bytes/s",
        "plain p50 us", "bandwidth ratio", "latency ratio",
    ]

    static var header: String { columns.joined(separator: "  ") }

    /// Medians, under the header.
    var line: String {
        let ratios = zip(log, plain)
        let figures = [
            "\(groups)", "\(recordBytes)", "\(groups)", whole(log.map(\.bytesPerSecond).quantile(0.5)),
            whole(log.map(\.syncsPerSecond).quantile(0.5)), whole(micros(log, 0.5)), whole(micros(log, 0.99)),
            whole(plain.map(\.bytesPerSecond).quantile(0.5)), whole(micros(plain, 0.5)),
            decimal(ratios.map { $0.bytesPerSecond / $1.bytesPerSecond }.quantile(0.5)),
            decimal(ratios.map { $0.latencies.quantile(0.5) / $1.latencies.quantile(0.5) }.quantile(0.5)),
        ]
        return tableLine(figures, under: LogRow.columns)
    }

    private func micros(_ runs: [Run], _ share: Double) -> Double {
        runs.map { $0.latencies.quantile(share) * 1e6 }.quantile(0.5)
    }
}

/// Something that makes one batch after the other durable.
private protocol BatchWriter {
    func writeBatch() throws(StorageError)
}

/// The write-ahead log as a node uses it.
private final class LogWriter: BatchWriter {
    private let disk: PosixDisk
    private let log: WriteAheadLog
    private var writes: [LogWrite]

    init(groups: Int, recordBytes: Int, folder: String) throws(StorageError) {
        disk = try emptyDisk(folder)
        let settings = WriteAheadLog.Settings(identity: 0x1234_5678_9abc_def0)
        log = try WriteAheadLog.open(disk: disk, settings: settings, log: { _ in }).0
        let payload = Bytes([UInt8](repeating: 0x5a, count: recordBytes))
        writes = (1...groups).map { group in
            LogWrite(
                group: LogGroup(group),
                entries: [
                    LogEntry(position: LogPosition(term: Term(1), index: LogIndex(1)), kind: .data, payload: payload)
                ])
        }
    }

    func writeBatch() throws(StorageError) {
        try log.write(writes)
        for position in writes.indices {
            let last = writes[position].entries[0].position
            writes[position].entries[0].position = LogPosition(term: last.term, index: last.index.next)
        }
    }

    func remove() throws(StorageError) {
        try log.close()
        try empty(disk)
    }
}

/// The same payloads, side by side in preallocated files of the log's size: no heads, no checksums, no index.
private final class PlainWriter: BatchWriter {
    private static let fileBytes = WriteAheadLog.Settings().segmentBytes

    private let disk: PosixDisk
    private var file: any DiskFile
    private var files = 1
    private var offset = 0
    private let batch: UnsafeMutableRawBufferPointer

    init(groups: Int, recordBytes: Int, folder: String) throws(StorageError) {
        disk = try emptyDisk(folder)
        batch = UnsafeMutableRawBufferPointer.allocate(byteCount: max(groups * recordBytes, 1), alignment: 16)
        for position in batch.indices { batch[position] = 0x5a }
        file = try PlainWriter.makeFile(1, max(PlainWriter.fileBytes, batch.count), on: disk)
    }

    deinit { batch.deallocate() }

    private static func makeFile(_ number: Int, _ bytes: Int, on disk: PosixDisk) throws(StorageError) -> any DiskFile {
        do throws(DiskError) {
            let file = try disk.create("plain.\(number)")
            try file.preallocate(bytes)
            try file.sync()
            try disk.syncDirectory()
            return file
        } catch {
            throw .disk(error)
        }
    }

    func writeBatch() throws(StorageError) {
        if offset + batch.count > max(PlainWriter.fileBytes, batch.count) {
            file.close()
            files += 1
            offset = 0
            file = try PlainWriter.makeFile(files, max(PlainWriter.fileBytes, batch.count), on: disk)
        }
        do throws(DiskError) {
            try file.write([UnsafeRawBufferPointer(batch)], at: offset)
            try file.sync()
        } catch {
            throw .disk(error)
        }
        offset += batch.count
    }

    func remove() throws(StorageError) {
        file.close()
        try empty(disk)
    }
}

private func emptyDisk(_ folder: String) throws(StorageError) -> PosixDisk {
    do throws(DiskError) { return try PosixDisk(directory: folder) } catch { throw .disk(error) }
}

/// Removes the folder with what is in it.
private func empty(_ disk: PosixDisk) throws(StorageError) {
    do throws(DiskError) {
        for name in try disk.list() { try disk.remove(name) }
        try disk.syncDirectory()
    } catch {
        throw .disk(error)
    }
    rmdir(disk.path)
}

private func monotonicSeconds() -> Double {
    var now = timespec()
    clock_gettime(CLOCK_MONOTONIC, &now)
    return Double(now.tv_sec) + Double(now.tv_nsec) / 1e9
}
