/// Rows under a heading, in aligned columns; numbers to the right.
struct Table {
    private var rows: [[String]]
    private let numeric: Set<Int>

    /// An empty table; the columns at the positions `numeric` hold numbers.
    init(_ heading: [String], numeric: Set<Int> = []) {
        rows = [heading]
        self.numeric = numeric
    }

    mutating func add(_ row: [String]) {
        precondition(row.count == rows[0].count, "a row has a cell for each column")
        rows.append(row)
    }

    /// The lines, joined; no space at their ends.
    var text: String {
        let widths = rows[0].indices.map { column in rows.map { $0[column].count }.max() ?? 0 }
        return rows.map { row in
            let cells = row.enumerated().map { column, cell in
                let gap = String(repeating: " ", count: widths[column] - cell.count)
                return numeric.contains(column) ? gap + cell : cell + gap
            }
            let line = cells.joined(separator: "  ")
            return String(line.reversed().drop { $0 == " " }.reversed())
        }.joined(separator: "\n")
    }
}
