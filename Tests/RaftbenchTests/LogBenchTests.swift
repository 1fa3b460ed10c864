import Glibc
import RaftStorage
import Testing

@testable import raftbench

@Suite("raftbench log") struct LogBenchTests {
    @Test("log and plain loop both write, and leave nothing behind")
    func run() throws {
        let folder = "\(Temporary.directory)/raftbench-log-test.\(getpid())"
        var row = LogRow(groups: 3, recordBytes: 100)
        try row.run(seconds: 0.05, in: folder, logFirst: true)
        try row.run(seconds: 0.05, in: folder, logFirst: false)
        #expect(row.log.count == 2 && row.plain.count == 2)
        for run in row.log + row.plain {
            #expect(run.latencies.count > 0 && run.bytes == run.latencies.count * 300)
        }
        #expect(access(folder, F_OK) != 0)
    }

    @Test("a directory that cannot be written is said")
    func noDirectory() {
        var row = LogRow(groups: 1, recordBytes: 1)
        #expect(throws: StorageError.self) { try row.run(seconds: 0.01, in: "/proc/nowhere", logFirst: true) }
    }

    @Test("a row shows medians, and ratios of neighbours")
    func line() {
        var row = LogRow(groups: 2, recordBytes: 50)
        for (log, plain) in [(1000, 1000), (4000, 8000), (2000, 8000)] {
            row.note(
                log: LogRow.Run(seconds: 2, bytes: log, latencies: [0.004, 0.002, 0.003]),
                plain: LogRow.Run(seconds: 2, bytes: plain, latencies: [0.002, 0.001, 0.002]))
        }
        let figures = row.line.split(separator: " ").map(String.init)
        #expect(
            figures == ["2", "50", "2", "1000", "2", "3000", "4000", "4000", "2000", "0.500", "1.500"])
    }
}

private enum Temporary {
    static var directory: String { getenv("TMPDIR").map { String(cString: $0) } ?? "/tmp" }
}
