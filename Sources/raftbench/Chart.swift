import Glibc

/// Curves over two axes, drawn as SVG whose colours are the page's.
struct Chart {
    /// How numbers lie on an axis.
    enum Scale {
        case linear
        case logarithmic
        /// Shares of one: 90 %, 99 % and 99.9 % are as far from each other.
        case nines

        fileprivate func place(_ number: Double) -> Double {
            switch self {
            case .linear: number
            case .logarithmic: log10(max(number, 1e-9))
            case .nines: -log10(1 - min(max(number, 0), Scale.lastShare))
            }
        }

        /// Where all of them lie.
        private static let lastShare = 0.99997
    }

    struct Axis {
        var name: String
        var scale = Scale.linear
        /// As a reader wants to see a number on it.
        var format: (Double) -> String
    }

    struct Series {
        var name: String
        var points: [(x: Double, y: Double)]
        /// Whether it goes up in steps, as a share of times does.
        var isStepped = false
    }

    var x: Axis
    var y: Axis
    var series: [Series]
    /// What it shows, for who cannot see it.
    var label: String

    private static let width = 720.0
    private static let height = 300.0
    private static let left = 76.0
    private static let right = 18.0
    private static let top = 12.0
    private static let bottom = 46.0
    /// Colours that the page has.
    static let colors = 6

    /// The drawing, with a legend above it if there is more than one curve.
    var html: String {
        let points = series.flatMap(\.points)
        guard !points.isEmpty else { return "" }
        let xTicks = Chart.ticks(x.scale, points.map(\.x))
        let yTicks = Chart.ticks(y.scale, points.map(\.y))
        let xRange = Chart.range(x.scale, points.map(\.x) + xTicks)
        let yRange = Chart.range(y.scale, points.map(\.y) + yTicks)
        func place(_ point: (x: Double, y: Double)) -> (x: Double, y: Double) {
            let across = (x.scale.place(point.x) - xRange.lowerBound) / (xRange.upperBound - xRange.lowerBound)
            let up = (y.scale.place(point.y) - yRange.lowerBound) / (yRange.upperBound - yRange.lowerBound)
            return (
                Chart.left + across * (Chart.width - Chart.left - Chart.right),
                Chart.height - Chart.bottom - up * (Chart.height - Chart.top - Chart.bottom)
            )
        }
        var svg =
            "<svg viewBox=\"0 0 \(whole(Chart.width)) \(whole(Chart.height))\" role=\"img\" aria-label=\"\(escaped(label))\">\n"
        for tick in yTicks {
            let at = place((points[0].x, tick)).y
            svg += line(Chart.left, at, Chart.width - Chart.right, at, "grid")
            svg += text(Chart.left - 8, at + 4, y.format(tick), "end")
        }
        for tick in xTicks {
            let at = place((tick, points[0].y)).x
            svg += line(at, Chart.height - Chart.bottom, at, Chart.height - Chart.bottom + 5, "axis")
            svg += text(at, Chart.height - Chart.bottom + 19, x.format(tick), "middle")
        }
        svg += line(
            Chart.left, Chart.height - Chart.bottom, Chart.width - Chart.right, Chart.height - Chart.bottom, "axis")
        svg += text((Chart.left + Chart.width - Chart.right) / 2, Chart.height - 6, x.name, "middle")
        svg +=
            "<text class=\"name\" text-anchor=\"middle\" transform=\"translate(14 \(whole((Chart.height - Chart.bottom) / 2))) rotate(-90)\">\(escaped(y.name))</text>\n"
        for (number, series) in series.enumerated() { svg += curve(series, number % Chart.colors, place) }
        return legend + svg + "</svg>\n"
    }

    private func curve(
        _ series: Series, _ color: Int, _ place: ((x: Double, y: Double)) -> (x: Double, y: Double)
    ) -> String {
        let places = series.points.map(place)
        var path = ""
        for (number, point) in places.enumerated() {
            if number > 0, series.isStepped { path += "H\(decimal(point.x))" }
            path += "\(number == 0 ? "M" : "L")\(decimal(point.x)) \(decimal(point.y))"
        }
        var svg = "<path class=\"curve c\(color)\" d=\"\(path)\"/>\n"
        for (point, at) in zip(series.points, places) {
            let tip = "\(series.name): \(x.format(point.x)), \(y.format(point.y))"
            svg +=
                "<circle class=\"dot c\(color)\" cx=\"\(decimal(at.x))\" cy=\"\(decimal(at.y))\" r=\"3.5\">"
                + "<title>\(escaped(tip))</title></circle>\n"
        }
        return svg
    }

    private var legend: String {
        guard series.count > 1 else { return "" }
        let entries = series.enumerated().map { number, series in
            "<li><span class=\"swatch c\(number % Chart.colors)\"></span>\(escaped(series.name))</li>"
        }
        return "<ul class=\"legend\">\(entries.joined())</ul>\n"
    }

    private func line(_ x1: Double, _ y1: Double, _ x2: Double, _ y2: Double, _ kind: String) -> String {
        "<line class=\"\(kind)\" x1=\"\(decimal(x1))\" y1=\"\(decimal(y1))\" x2=\"\(decimal(x2))\" y2=\"\(decimal(y2))\"/>\n"
    }

    private func text(_ x: Double, _ y: Double, _ text: String, _ anchor: String) -> String {
        "<text x=\"\(decimal(x))\" y=\"\(decimal(y))\" text-anchor=\"\(anchor)\">\(escaped(text))</text>\n"
    }

    // MARK: axes

    private static func range(_ scale: Scale, _ numbers: [Double]) -> ClosedRange<Double> {
        let places = numbers.map(scale.place)
        let (low, high) = (places.min() ?? 0, places.max() ?? 1)
        return high - low > 1e-9 ? low...high : (low - 0.5)...(high + 0.5)
    }

    /// Round numbers that frame `numbers`, or lie among them.
    static func ticks(_ scale: Scale, _ numbers: [Double]) -> [Double] {
        let (low, high) = (numbers.min() ?? 0, numbers.max() ?? 1)
        switch scale {
        case .nines:
            return [0, 0.5, 0.9, 0.99, 0.999, 0.9999].filter { $0 <= high }
        case .logarithmic:
            let (first, last) = (Int(floor(log10(max(low, 1e-3)))), Int(ceil(log10(max(high, 1e-3)))))
            let decades = (first...max(last, first + 1)).map { pow(10, Double($0)) }
            guard decades.count < 4 else { return decades }
            let fine = decades.flatMap { [$0, 2 * $0, 5 * $0] }
            let lowest = fine.last { $0 <= low } ?? fine[0]
            let highest = fine.first { $0 >= high } ?? fine[fine.count - 1]
            return fine.filter { $0 >= lowest && $0 <= highest }
        case .linear:
            guard high > 0 else { return [0, 1] }
            let rough = high / 5
            let unit = pow(10, floor(log10(rough)))
            let step = [1, 2, 5, 10].map { $0 * unit }.first { $0 >= rough } ?? unit
            return (0...Int(ceil(high / step))).map { Double($0) * step }
        }
    }
}

/// `text` where HTML and its attributes may have it.
func escaped(_ text: String) -> String {
    var escaped = ""
    for character in text {
        switch character {
        case "&": escaped += "&amp;"
        case "<": escaped += "&lt;"
        case ">": escaped += "&gt;"
        case "\"": escaped += "&quot;"
        default: escaped.append(character)
        }
    }
    return escaped
}
