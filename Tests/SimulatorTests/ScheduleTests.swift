import RaftCore
import Simulator
import Testing

@Suite("Plans and schedules") struct ScheduleTests {
    @Test("A schedule is what its text says") func text() throws {
        let plan = Plan(seed: 5)
        #expect(plan.schedule.faults.count > 5)
        #expect(FaultSchedule(plan.schedule.description) == plan.schedule)
        #expect(FaultSchedule("")?.faults == [])
        let text = "20:crash:1:2:300:4\n10:clock-jump:3:1:1:99"
        let faults = try #require(FaultSchedule(text)).faults
        #expect(faults.map(\.step) == [10, 20] && faults.map(\.kind) == [.clockJump, .crash])
        for bad in [
            "crash", "1:crash:1:2:3", "1:crash:0:2:3:4", "x:crash:1:2:3:4", "1:quake:1:2:3:4", "-1:crash:1:2:3:4",
        ] {
            #expect(FaultSchedule(bad) == nil, "\(bad)")
        }
    }

    @Test("An argument of a plan leaves the rest as it is") func arguments() {
        let plan = Plan(seed: 8)
        let same = Plan(
            seed: 8, groups: plan.groups, nodes: plan.nodes, steps: plan.steps, schedule: plan.schedule)
        #expect(plan == same)
        #expect(Plan(seed: 8, kinds: [.crash]).schedule.faults.allSatisfy { $0.kind == .crash })
        #expect(Plan(seed: 8, kinds: []).schedule.faults.isEmpty)
    }

    @Test("A minority of every group rots at most", arguments: 1...50 as ClosedRange<UInt64>)
    func rot(seed: UInt64) {
        let plan = Plan(seed: seed, kinds: [.bitRot])
        let rotting = Set(plan.schedule.faults.map(\.node))
        #expect(rotting.count <= (plan.replicas - 1) / 2)
    }

    @Test("The smallest schedule that fails is found") func shrinking() {
        let plan = Plan(seed: 3, steps: 50_000)
        let faults = plan.schedule.faults
        let guilty = [faults[2], faults[faults.count / 2], faults[faults.count - 1]]
        var runs = 0
        func outcome(_ plan: Plan) -> Simulation.Outcome {
            runs += 1
            let fails = guilty.allSatisfy { plan.schedule.faults.contains($0) }
            return Simulation.Outcome(violation: fails ? Violation("Test", "it fails") : nil)
        }
        #expect(plan.shrunk(failing: "Test", outcome: outcome).schedule.faults == FaultSchedule(guilty).faults)
        #expect(runs <= 200)
        let never = plan.shrunk(failing: "Another", outcome: outcome)
        #expect(never.schedule == plan.schedule, "nothing smaller fails")
    }

    @Test("A schedule of cores is what its text says") func coreText() throws {
        for life in CoreLifeKind.allCases {
            let plan = CorePlan(seed: 5, life: life)
            #expect(plan.schedule.deeds.count > 20)
            #expect(CoreSchedule(plan.schedule.description) == plan.schedule)
        }
        #expect(CoreSchedule("")?.deeds == [])
        let schedule = try #require(CoreSchedule("20:cut-link:1:300\n10:propose:3:9,20:mend:0:1"))
        #expect(schedule.description == "10:propose:3:9,20:cut-link:1:300,20:mend:0:1")
        for bad in ["mend", "1:mend:1", "1:quake:1:2", "-1:mend:1:2", "1:mend:-1:2", "1:mend:1:x", "1:mend:1:2:3"] {
            #expect(CoreSchedule(bad) == nil, "\(bad)")
        }
        let again = CorePlan(seed: 2 + UInt64(CoreLifeKind.allCases.count))
        #expect(again.life == CorePlan(seed: 2).life && again != CorePlan(seed: 2))
    }

    @Test("The smallest schedule of cores that fails is found") func shrinkingCores() {
        let plan = CorePlan(seed: 3, life: .everything)
        let deeds = plan.schedule.deeds
        let guilty = [deeds[2], deeds[deeds.count / 2], deeds[deeds.count - 1]]
        var runs = 0
        func outcome(_ plan: CorePlan) -> CoreSimulation.Outcome {
            runs += 1
            let fails = guilty.allSatisfy { plan.schedule.deeds.contains($0) }
            return CoreSimulation.Outcome(violation: fails ? Violation("Test", "it fails") : nil)
        }
        #expect(plan.shrunk(failing: "Test", outcome: outcome).schedule.deeds == guilty)
        #expect(runs <= 2000)
        #expect(plan.shrunk(failing: "Another", outcome: outcome) == plan, "nothing smaller fails")
    }
}
