-- retention_facts.sql($1 repo_id, $2 since when): what keeps snapshots of a repo whatever a policy says, and when things came into
-- the vault since then, by the clock of then: states and what was read each day of all repos, the rest of this one.
select
  (select max(snapshot) from drill where repo_id = $1 and cardinality(problems) = 0) as drilled,
  (
    -- the key ends in the last snapshot before a deletion in several pushes, or in the one that shows it all
    select max(substring(told_key from '/([0-9]+)$')::int) from notice
    where repo_id = $1 and kind = 'mass-deletion' and seen_at is null and told_key like 'mass-deletion/%'
  ) as deleted_after,
  array(
    select distinct (asked ->> 'snapshot')::int from job
    where repo_id = $1 and state in ('queued', 'running') and asked ->> 'snapshot' ~ '^[0-9]{1,9}$'
  ) as in_use,
  array(
    select max(at) from (
      select taken_at as at from state_export where state in ('stored', 'taken-up') and taken_at >= $2
      union all select at from daily_evidence where at >= $2 and body is null
      union all select at from evidence where repo_id = $1 and at >= $2 and body is null
      union all select taken_at from snapshot where repo_id = $1 and taken_at >= $2
    ) came
    group by date_trunc('hour', at)
  ) as seen
