import ClusterProcesses
import Glibc
import Testing

/// Pages with tables that name the tests which show what they say.
@Suite("Tables of the documentation")
struct TableTests {
    private static let root = String(#filePath.dropLast("Tests/ConformanceTests/TableTests.swift".count))
    private static let pages = ["BraftConformance.md", "Faults.md"]

    /// The tests that `page` names as `Target/Suite/function`; `…/function` is another of the suite named before.
    private static func named(on page: String) throws -> [(target: String, suite: String, function: String)] {
        let text = try Files.text(root + "Sources/RaftHost/RaftHost.docc/" + page)
        var result: [(target: String, suite: String, function: String)] = []
        for (position, span) in text.split(separator: "`", omittingEmptySubsequences: false).enumerated() {
            let parts = span.split(separator: "/", omittingEmptySubsequences: false).map(String.init)
            guard position % 2 == 1, !span.contains(" ") else { continue }
            if parts.count == 3, parts[0].hasSuffix("Tests") {
                result.append((target: parts[0], suite: parts[1], function: parts[2]))
            } else if parts.count == 2, parts[0] == "…" {
                let last = try #require(result.last, "\(page) begins with \(span)")
                result.append((target: last.target, suite: last.suite, function: parts[1]))
            }
        }
        return result
    }

    @Test("Every test that a page names exists", arguments: pages) func testsExist(_ page: String) throws {
        let named = try TableTests.named(on: page)
        #expect(named.count > 30, "\(page) names \(named.count) tests")
        var sources: [String: [String]] = [:]
        for (target, suite, function) in named {
            if sources[target] == nil {
                let folder = "\(TableTests.root)Tests/\(target)/"
                sources[target] = try Files.list(folder).filter { $0.hasSuffix(".swift") }.map {
                    try Files.text(folder + $0)
                }
            }
            let exists = sources[target]?.contains { text in
                text.contains("struct \(suite) ") && text.contains("func \(function)(")
            }
            #expect(exists == true, "\(page): there is no \(target)/\(suite)/\(function)")
        }
    }

    @Test("The page on braft has a row for each trap, and a test for each row") func traps() throws {
        let text = try Files.text(TableTests.root + "Sources/RaftHost/RaftHost.docc/BraftConformance.md")
        let rows = text.split(separator: "\n").filter { $0.hasPrefix("| ") && !$0.hasSuffix("| shown by |") }
        for trap in 1...22 { #expect(rows.contains { $0.hasPrefix("| \(trap) |") }, "trap \(trap)") }
        #expect(rows.count > 80)
        for row in rows { #expect(row.contains("Tests/"), "\(row.prefix(60))") }
    }
}
