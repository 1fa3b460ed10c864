import Foundation
import RaftCore
import Testing

@testable import ShardKV

@Suite("Whatever happens while shards move, each write is executed once and none is lost")
struct MovingModelTests {
    #if MUTANTS
        /// A build with bugs on purpose has the one that the environment names.
        init() { PlantedBug.plant(ProcessInfo.processInfo.environment["FLOTILLA_PLANTED"] ?? "") }
    #endif

    /// Of each part; more of them with an environment that says so.
    static let seeds = ProcessInfo.processInfo.environment["FLOTILLA_MOVING_SEEDS"].flatMap { UInt64($0) } ?? 40

    @Test(arguments: 0..<8) func seeds(_ part: UInt64) throws {
        var (repeated, frozen) = (0, 0)
        for seed in part * MovingModelTests.seeds..<(part + 1) * MovingModelTests.seeds {
            do {
                let cluster = try MovingCluster(seed: seed)
                try cluster.run(steps: 300)
                try cluster.checkKeys()
                repeated += cluster.counts.repeated
                frozen += cluster.counts.frozen
            } catch {
                Issue.record("seed \(seed): \(error)")
                return
            }
        }
        // the model is worth something only where these happen
        #expect(repeated > 100 && frozen > 10)
    }
}
