"""scikit-learn's figures for the twelve tokens in src/eval/tokens.rs. pip install scikit-learn==1.7.2"""

from sklearn.metrics import average_precision_score, roc_auc_score

rewards = [0.9, 0.8, 0.8, 0.7, 0.6, 0.6, 0.5, 0.4, 0.4, 0.3, 0.2, 0.1]
good = [1, 1, 1, 0, 1, 1, 0, 1, 0, 0, 1, 0]
print("auroc", roc_auc_score(good, rewards))
print("map_neg", average_precision_score([1 - g for g in good], [-r for r in rewards]))
print("map_pos", average_precision_score(good, rewards))
