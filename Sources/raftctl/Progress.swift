import Glibc
import Synchronization

/// Shows on standard error how far a long command is: a bar where that is a terminal, otherwise a line every 2 s.
final class Progress: Sendable {
    /// What is done.
    struct Count: Sendable {
        var records = 0
        var payloadBytes: UInt64 = 0
        /// Of the file that is read, for the share of it.
        var fileBytes: UInt64 = 0
    }

    private let title: String
    private let totalRecords: Int?
    private let totalFileBytes: UInt64?
    private let isBar: Bool
    private let start = ContinuousClock.now
    private let count = Mutex(Count())

    private static let barCells = 24
    /// The rate is that of so many last looks.
    private static let samplesMax = 10

    init(_ title: String, totalRecords: Int?, totalFileBytes: UInt64?) {
        self.title = title
        self.totalRecords = totalRecords
        self.totalFileBytes = totalFileBytes
        isBar = Output.isTerminal(STDERR_FILENO)
    }

    func add(records: Int, payloadBytes: Int, fileBytes: Int) {
        count.withLock { count in
            count.records += records
            count.payloadBytes += UInt64(payloadBytes)
            count.fileBytes += UInt64(fileBytes)
        }
    }

    /// Runs `body` and shows how far it is until it is done, then what it took.
    func show<R: Sendable>(during body: () async -> R) async -> R {
        let ticker = Task { await tick() }
        let result = await body()
        ticker.cancel()
        await ticker.value
        let seconds = elapsedSeconds
        let count = count.withLock { $0 }
        let rate = Int(Double(count.records) / max(seconds, 0.001))
        let summary = "\(title): \(count.records) records, \(Quantity.bytes(count.payloadBytes)) in "
        let line = "\(summary)\(Quantity.oneDecimal(seconds)) s, \(rate)/s"
        Output.complain(isBar ? "\r\u{1b}[K\(line)" : line)
        return result
    }

    private func tick() async {
        var samples: [(seconds: Double, records: Int)] = [(elapsedSeconds, 0)]
        while true {
            await pause(milliseconds: isBar ? 200 : 2000)
            if Task.isCancelled { return }
            let count = count.withLock { $0 }
            let now = elapsedSeconds
            let rate = Double(count.records - samples[0].records) / max(now - samples[0].seconds, 0.001)
            samples.append((now, count.records))
            if samples.count > Progress.samplesMax { samples.removeFirst() }
            let line = Progress.line(
                title, count, share: share(of: count), total: totalRecords, rate: rate, isBar: isBar)
            if isBar { Output.note("\r\u{1b}[K\(line)") } else { Output.complain(line) }
        }
    }

    private var elapsedSeconds: Double { start.duration(to: .now).inSeconds }

    /// How much of everything is done, 0…1; nil if nobody knows.
    private func share(of count: Count) -> Double? {
        if let totalRecords, totalRecords > 0 { return min(1, Double(count.records) / Double(totalRecords)) }
        if let totalFileBytes, totalFileBytes > 0 { return min(1, Double(count.fileBytes) / Double(totalFileBytes)) }
        return nil
    }

    /// One line: bar, share, count, rate, bytes.
    static func line(_ title: String, _ count: Count, share: Double?, total: Int?, rate: Double, isBar: Bool) -> String
    {
        var parts: [String] = []
        if let share {
            if isBar {
                let filled = Int(share * Double(barCells))
                parts.append(
                    "[\(String(repeating: "#", count: filled))\(String(repeating: "-", count: barCells - filled))]")
            }
            parts.append("\(Int(share * 100))%")
        }
        parts.append(String(count.records) + (total.map { "/\($0)" } ?? " records"))
        parts.append("\(Int(rate))/s")
        parts.append(Quantity.bytes(count.payloadBytes))
        return "\(title): " + parts.joined(separator: "  ")
    }
}
