-- 211_storage_classes.sql: in which storage class of the store a part was when it was last listed.
alter table part add column storage_class text;  -- null: the usual one, or nobody has looked
