extension Plan {
    /// The plan with the smallest fault schedule found that still fails with a violation of the same checker. `runs`
    /// bounds how often `outcome` is asked.
    public func shrunk(
        failing checker: String, runs: Int = 200, outcome: (Plan) -> Simulation.Outcome = { Simulation($0).run() }
    ) -> Plan {
        var plan = self
        let faults = smallestPart(of: schedule.faults, runs: runs) { faults in
            plan.schedule = FaultSchedule(faults)
            return outcome(plan).violation?.checker == checker
        }
        plan.schedule = FaultSchedule(faults)
        return plan
    }
}

extension CorePlan {
    /// The plan with the smallest schedule found that still fails with a violation of the same checker. `runs` bounds how
    /// often `outcome` is asked; a run of cores is short.
    public func shrunk(
        failing checker: String, runs: Int = 2000,
        outcome: (CorePlan) -> CoreSimulation.Outcome = { plan in
            var simulation = CoreSimulation(plan)
            return simulation.run()
        }
    ) -> CorePlan {
        var plan = self
        let deeds = smallestPart(of: schedule.deeds, runs: runs) { deeds in
            plan.schedule = CoreSchedule(deeds)
            return outcome(plan).violation?.checker == checker
        }
        plan.schedule = CoreSchedule(deeds)
        return plan
    }
}

/// The smallest part of `items` found that still fails, in their order, by delta debugging (Zeller and Hildebrandt, 2002):
/// ever smaller parts are left out. All of them if no part fails. `runs` bounds how often `fails` is asked.
private func smallestPart<Item>(of items: [Item], runs: Int, _ fails: ([Item]) -> Bool) -> [Item] {
    var left = runs
    func stillFails(_ items: [Item]) -> Bool {
        guard left > 0 else { return false }
        left -= 1
        return fails(items)
    }
    if stillFails([]) { return [] }
    var smallest = items
    var parts = 2
    while smallest.count > 1, left > 0 {
        let items = smallest
        parts = min(parts, items.count)
        let cuts = (0...parts).map { $0 * items.count / parts }
        let complement = (0..<parts).lazy
            .map { part in Array(items[..<cuts[part]] + items[cuts[part + 1]...]) }
            .first(where: stillFails)
        if let complement {
            smallest = complement
            parts = max(parts - 1, 2)
        } else if parts == items.count {
            break
        } else {
            parts *= 2
        }
    }
    return smallest
}
