/// How long moving shards were nobody's, from what nodes print of the steps they take: from FREEZE, applied by the
/// leader of the source, to ADOPT, applied by that of the destination. The nodes must share a clock.
struct Freezes {
    private var frozen: [Int: Int] = [:]
    private var adopted: [Int: Int] = [:]
    private static let dayMilliseconds = 24 * 3600 * 1000

    /// Adds what a node has printed.
    mutating func add(_ log: String) {
        for line in log.split(separator: "\n") where line.contains(" shard step taken ") {
            let words = line.split(separator: " ")
            func field(_ name: String) -> Substring? {
                words.first { $0.hasPrefix(name + "=") }?.dropFirst(name.count + 1)
            }
            guard let time = words.first.flatMap(Freezes.milliseconds(ofDayIn:)), let step = field("step"),
                let operation = field("operation").flatMap({ Int($0) })
            else { continue }
            // a step that is repeated was taken the first time
            switch step {
            case "freeze": frozen[operation] = min(frozen[operation] ?? .max, time)
            case "adopt": adopted[operation] = min(adopted[operation] ?? .max, time)
            default: break
            }
        }
    }

    /// Seconds, by operation; nil if its steps were not seen.
    func seconds(of operation: Int) -> Double? {
        guard let began = frozen[operation], let ended = adopted[operation] else { return nil }
        return Double(ended >= began ? ended - began : ended + Freezes.dayMilliseconds - began) / 1000
    }

    /// Of a stamp like `2000-01-31T23:59:59.999Z`.
    static func milliseconds(ofDayIn stamp: Substring) -> Int? {
        let time = stamp.drop { $0 != "T" }.dropFirst().dropLast()
        let parts = time.split { $0 == ":" || $0 == "." }.compactMap { Int($0) }
        guard parts.count == 4 else { return nil }
        return ((parts[0] * 60 + parts[1]) * 60 + parts[2]) * 1000 + parts[3]
    }
}
