"""What several test files share: small networks and the imports of peers."""
