// Figures in the columns of a table.

import Glibc

/// Rounded to a whole number.
func whole(_ number: Double) -> String { "\(Int64(number.rounded()))" }

/// With three digits behind the point.
func decimal(_ number: Double) -> String {
    let thousandths = Int64((abs(number) * 1000).rounded())
    let fraction = "\(thousandths % 1000)"
    let sign = number < 0 && thousandths > 0 ? "-" : ""
    return "\(sign)\(thousandths / 1000).\(String(repeating: "0", count: 3 - fraction.count))\(fraction)"
}

/// `figures` under `columns`, each as wide as its column's name at least.
func tableLine(_ figures: [String], under columns: [String]) -> String {
    zip(figures, columns).map { figure, column in
        String(repeating: " ", count: max(0, column.count - figure.count)) + figure
    }.joined(separator: "  ")
}

/// What goes on in a command that takes long, for who waits: a line on standard error.
func tell(_ text: String) {
    var line = "raftbench: \(text)\n"
    line.withUTF8 { _ = write(STDERR_FILENO, $0.baseAddress, $0.count) }
}

extension Array where Element: Comparable {
    /// The element that `share` of the others are not above; the array must not be empty.
    func quantile(_ share: Double) -> Element {
        let sorted = self.sorted()
        return sorted[Swift.min(sorted.count - 1, Int(Double(sorted.count) * share))]
    }
}
