-- take.sql: take up what is due next, with the rows of the jobs; how it is chosen say sql/038_queue.sql and sql/063_team_shares.sql.
-- $1 worker, $2 now, $3 how many at most, $4 of them heavy, $5 the shares that are this worker's, $6 how long it leaves alone
-- what is another's, $7 runs at most at one host, a quarter of them kept free of what is heavy, $8 the repo that is preferred or null,
-- $9 teams that may take up nothing, $10 nothing heavy.
select run_key, run_repo, run_team, run_kind, run_heavy, failing, (run_job).*
from dequeue($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
