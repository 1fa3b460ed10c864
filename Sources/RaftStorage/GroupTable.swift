import RaftCore

/// The log's groups by number. A node counts its replicas, so the number is mostly the place; few find theirs by hashing.
struct GroupTable {
    /// Numbers from here on are hashed: a table has room for all below the highest.
    private static let nearEnd: LogGroup = 1 << 17

    private var near: ContiguousArray<GroupLog?> = []
    private var far: [LogGroup: GroupLog] = [:]

    init(_ groups: some Sequence<GroupLog>) {
        for log in groups { self[log.group] = log }
    }

    subscript(group: LogGroup) -> GroupLog? {
        get { group < LogGroup(near.count) ? near[Int(group)] : far[group] }
        set {
            guard group < GroupTable.nearEnd else { return far[group] = newValue }
            let missing = Int(group) + 1 - near.count
            if missing > 0 { near.append(contentsOf: repeatElement(nil, count: missing)) }
            near[Int(group)] = newValue
        }
    }
}
