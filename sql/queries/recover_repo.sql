-- recover_repo.sql: a repo as the vault describes it; how it is doing is not known yet.
insert into repo (
  id, team_id, name, url, object_format, created_at, forge, host, repository_id, private,
  paused_at, archived_at, schedule, excluded, cron_gap
) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15);
