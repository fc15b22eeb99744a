"""Real parts that the tests stand on: repositories, servers, databases, object stores."""
