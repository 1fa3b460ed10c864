import RaftCore

/// What a node's page of metrics says, at one moment.
struct MetricsSample: Equatable, Sendable {
    /// One value with its name and labels.
    struct Series: Equatable, Sendable {
        var name: String
        var labels: [String: String]
        var value: Double
    }

    var series: [Series] = []

    /// Reads Prometheus' text format; lines that are none of it are passed over.
    init(_ text: String) {
        for line in text.utf8.split(separator: UInt8(ascii: "\n")) where line.first != UInt8(ascii: "#") {
            if let parsed = MetricsSample.parse(line) { series.append(parsed) }
        }
    }

    private static func parse(_ line: Substring.UTF8View) -> Series? {
        func isNamePart(_ byte: UInt8) -> Bool { byte != UInt8(ascii: "{") && byte != UInt8(ascii: " ") }
        let name = line.prefix(while: isNamePart)
        var rest = line.dropFirst(name.count)
        var labels: [String: String] = [:]
        if rest.first == UInt8(ascii: "{") {
            rest = rest.dropFirst()
            while let first = rest.first, first != UInt8(ascii: "}") {
                let label = rest.prefix { $0 != UInt8(ascii: "=") }
                rest = rest.dropFirst(label.count + 1)
                guard rest.first == UInt8(ascii: "\"") else { return nil }
                rest = rest.dropFirst()
                guard let value = quoted(&rest) else { return nil }
                labels[String(decoding: label, as: UTF8.self)] = value
                if rest.first == UInt8(ascii: ",") { rest = rest.dropFirst() }
            }
            rest = rest.dropFirst()
        }
        guard let value = Double(String(decoding: rest.drop { $0 == UInt8(ascii: " ") }, as: UTF8.self)) else {
            return nil
        }
        return Series(name: String(decoding: name, as: UTF8.self), labels: labels, value: value)
    }

    /// A label's value, behind its first quote; its last one is taken off `rest`, too.
    private static func quoted(_ rest: inout Substring.UTF8View) -> String? {
        var bytes: [UInt8] = []
        while let byte = rest.popFirst() {
            switch byte {
            case UInt8(ascii: "\""): return String(decoding: bytes, as: UTF8.self)
            case UInt8(ascii: "\\"):
                guard let escaped = rest.popFirst() else { return nil }
                bytes.append(escaped == UInt8(ascii: "n") ? UInt8(ascii: "\n") : escaped)
            default: bytes.append(byte)
            }
        }
        return nil
    }

    /// The value of the series without labels, or the sum of all of that name; nil if there is none.
    func value(_ name: String) -> Double? {
        let values = series.lazy.filter { $0.name == name }.map(\.value)
        return values.isEmpty ? nil : values.reduce(0, +)
    }

    /// A stage's histogram: what is counted up to each bound, ascending.
    func buckets(of stage: String) -> [(bound: Double, count: Double)] {
        series.compactMap { one in
            guard one.name == "flotilla_stage_seconds_bucket", one.labels["stage"] == stage,
                let bound = one.labels["le"].flatMap({ $0 == "+Inf" ? .infinity : Double($0) })
            else { return nil }
            return (bound, one.value)
        }.sorted { $0.bound < $1.bound }
    }
}

/// What went on at a node between two looks.
struct MetricsInterval: Sendable {
    let earlier: MetricsSample
    let later: MetricsSample
    let seconds: Double

    /// By how much a counter grew in a second. One that went back began anew: its node was started again.
    func rate(_ name: String) -> Double {
        let (before, after) = (earlier.value(name) ?? 0, later.value(name) ?? 0)
        return (after >= before ? after - before : after) / max(seconds, 0.001)
    }

    /// The duration, in seconds, below which a share of what a stage did stayed: the bound of the bucket it is in, which
    /// is at most twice as much. Nil if it did nothing.
    func quantile(_ share: Double, of stage: String) -> Double? {
        let before = earlier.buckets(of: stage)
        var counts: [(bound: Double, count: Double)] = later.buckets(of: stage)
        if before.count == counts.count, let last = counts.last, last.count >= before[before.count - 1].count {
            for position in counts.indices { counts[position].count -= before[position].count }
        }
        guard let all = counts.last?.count, all > 0 else { return nil }
        let bound = counts.first { $0.count >= share * all }?.bound ?? .infinity
        return bound.isFinite ? bound : counts.dropLast().last?.bound
    }

    /// Operations in a second of the groups that the node leads and shows, the most first.
    var groupRates: [(group: String, rate: Double)] {
        let name = "flotilla_group_operations_total"
        var before: [String: Double] = [:]
        for one in earlier.series where one.name == name { before[one.labels["group"] ?? ""] = one.value }
        let rates: [(group: String, rate: Double)] = later.series.compactMap { one in
            // what was not shown before has no rate yet
            guard one.name == name, one.labels["role"] == "leader", let group = one.labels["group"],
                let former = before[group], one.value > former
            else { return nil }
            return (group, (one.value - former) / max(seconds, 0.001))
        }
        return rates.sorted { ($1.rate, $0.group) < ($0.rate, $1.group) }
    }
}
