public import RaftCore
internal import ShardMap

// One operation on one key each; a failure of the operation is thrown.

extension Client {
    /// The value of `key`; nil if there is none.
    public func get(_ key: Bytes) async throws(ClientError) -> Bytes? {
        try await perform(KeyOperation(.get, key: key)).value
    }

    /// Whether there is a `key`.
    public func exists(_ key: Bytes) async throws(ClientError) -> Bool {
        try await perform(KeyOperation(.exists, key: key)).integer == 1
    }

    /// Stores `value` under `key`, for so many milliseconds if that is said.
    public func put(_ key: Bytes, _ value: Bytes, expiresInMilliseconds: Int64? = nil) async throws(ClientError) {
        _ = try await perform(
            KeyOperation(.set, key: key, value: value, expiresInMilliseconds: expiresInMilliseconds))
    }

    /// Stores `value` under `key` if there is no such key; whether it did.
    public func putIfAbsent(
        _ key: Bytes, _ value: Bytes, expiresInMilliseconds: Int64? = nil
    ) async throws(ClientError) -> Bool {
        try await perform(
            KeyOperation(
                .set, key: key, value: value, condition: .ifAbsent, expiresInMilliseconds: expiresInMilliseconds)
        ).applied
    }

    /// Removes `key`; whether there was one.
    @discardableResult
    public func delete(_ key: Bytes) async throws(ClientError) -> Bool {
        try await perform(KeyOperation(.delete, key: key)).integer == 1
    }

    /// Adds `amount` to the integer stored under `key`, 0 if there is none; the sum.
    @discardableResult
    public func increment(_ key: Bytes, by amount: Int64 = 1) async throws(ClientError) -> Int64 {
        try await integer(KeyOperation(.increment, key: key, number: amount))
    }

    /// Appends `value` to what is stored under `key`; the length after it.
    @discardableResult
    public func append(_ key: Bytes, _ value: Bytes) async throws(ClientError) -> Int64 {
        try await integer(KeyOperation(.append, key: key, value: value))
    }

    private func integer(_ operation: KeyOperation) async throws(ClientError) -> Int64 {
        guard let integer = try await perform(operation).integer else {
            throw ClientError(.internalError, "an answer without its number")
        }
        return integer
    }

    private func perform(_ operation: KeyOperation) async throws(ClientError) -> KeyResult {
        let result = try await execute([operation])[0]
        if let error = result.error { throw ClientError(error, result.message) }
        return result
    }
}
